"""The training loop: owns optimisers, precision, averaging, checkpoints and logging, for every objective."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fewstep.core.errors import OperationError, UserError, is_out_of_memory
from fewstep.data.base import Dataset
from fewstep.denoisers.compiled import compile_trunks
from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.predictions.draws import refusals, refuse_if
from fewstep.predictions.evaluation import RowStep, row_steps_by, with_gradient
from fewstep.recipe import dump_recipe
from fewstep.recipe.models import Recipe, TrainerSettings
from fewstep.runs.checkpoint import EXPORT_FORMAT, checkpoint_name, export_weights
from fewstep.runs.environment import installed_plugins
from fewstep.runs.folder import RunDir
from fewstep.runtime.compiling import Compiled, one_step
from fewstep.runtime.console import say
from fewstep.runtime.device import resolve_device
from fewstep.runtime.digest import weights_digest
from fewstep.runtime.lock import held, whoami
from fewstep.runtime.memory import peak_megabytes, reset_peak
from fewstep.runtime.precision import resolve_precision, tf32
from fewstep.runtime.ranks import ALONE, Ranks
from fewstep.runtime.seeding import derived_seed
from fewstep.runtime.signals import asked_to_end
from fewstep.trackers.base import flat, refuse_missing
from fewstep.training.agreement import agree_on_parts
from fewstep.training.assemble import Parts, assemble
from fewstep.training.batches import Batches
from fewstep.training.ema import Ema
from fewstep.training.exhausted import explain, weights
from fewstep.training.loggers import NoLogger, RunLogger
from fewstep.training.mishaps import Found, Mishaps
from fewstep.training.oversight import Oversight
from fewstep.training.parallel import copies, parallelise, summing
from fewstep.training.resume import go_back, resume
from fewstep.training.saver import Saver, StorageError, advice
from fewstep.training.sentinel import Sentinel
from fewstep.training.shards import Shards, rest
from fewstep.training.shares import check_shares
from fewstep.training.state import State, restore, state_of
from fewstep.training.sums import Sums
from fewstep.training.turns import Turns
from fewstep.training.updates import Updates
from fewstep.training.watchdog import Watchdog

_HEARTBEAT = 30.0
"""Seconds after which a run says again that it lives."""
_DIAGNOSE_EVERY = 10
"""Rounds of phases between two measurements of what costs extra."""


@dataclass(frozen=True)
class FitResult:
    """How a call of `fit` ended: `finished`, or stopped early by a signal, at `step`."""

    finished: bool
    step: int


class Trainer:
    """Trains the networks of an objective's roles in a run folder; resumes exactly from the folder's last checkpoint.

    Args:
        parts: dataset, process, objective and networks (`assemble` makes them of a recipe). Networks are moved to the
            device and changed in place.
        settings: how long, how fast, on what device.
        run: folder that the run lives in.
        recipe: what the parts were made of, which the run's export carries; None for parts made by hand.
        echo: where console lines go.
        ranks: processes that share this training. Each has all parts, trains on its share of every batch, and comes to
            the same weights; the first one writes the run folder.

    Raises:
        UserError: the device is not there, a model that the sampler names does not fit, the batch cannot be shared, or
            the package of a tracker is missing.
    """

    def __init__(
        self,
        parts: Parts,
        settings: TrainerSettings,
        run: RunDir,
        *,
        recipe: Recipe | None = None,
        echo: Callable[[str], None] = say,
        ranks: Ranks = ALONE,
    ) -> None:
        check_shares(settings.train, ranks)
        if ranks.first:
            refuse_missing(settings.trackers)
        echo = echo if ranks.first else _nowhere
        self.settings, self.run, self.recipe, self.echo, self.ranks = settings, run, recipe, echo, ranks
        self.device = resolve_device(settings.train.device)
        self.precision = resolve_precision(settings.train.precision, self.device)
        self.dataset, self.process, self.objective = parts.dataset, parts.process, parts.objective
        self.teacher_digest = weights_digest(parts.roles["teacher"]) if "teacher" in parts.roles else None
        parts = parallelise(parts, settings, ranks, self.device)
        self.roles = {name: network.to(self.device).eval() for name, network in parts.roles.items()}
        held_by = copies(settings.parallel, ranks)
        self.shards = {name: Shards(network, ranks, held_by) for name, network in self.roles.items()}
        self._graphs = self._records_graphs()
        for name, network in self.roles.items():
            compile_trunks(network, settings.train.compile, self.device, f"'{name}'", echo, graphs=self._graphs)
        self._row_step: RowStep = with_gradient
        if settings.train.compile == "step":
            self._row_step = Compiled(with_gradient, "a loss over rows", by_name=True, say=echo, dynamic=True)
        self.trained = [name for name, role in self.objective.roles.items() if role.trained]
        self.turns = Turns(self.objective.phases(), settings.train.steps)

        self.ema = Ema(self.shards["student"].own, settings.ema.decay)
        self.batches = Batches(parts, settings, self.roles, self.device, ranks)
        self.loader = self.batches.loader
        self.ctx = StepContext(
            self.roles,
            self.process,
            self.batches.streams(range(1)),
            self.device,
            steps=settings.train.steps,
            folder=run.path,
            end=self.dataset.end,
            dataset=self.dataset,
            ranks=replace(ranks, together=self.shards["student"].sharded),
        )
        self.generators = _global_generators(self.device)
        self.sums = Sums()
        self.mishaps = Mishaps(settings.train)
        self.sentinel = Sentinel(self.trained, self.device)
        trained = {name: self.shards[name] for name in self.trained}
        self.updates = Updates(settings.optim, trained, self.turns, self.ctx.ranks, self.sentinel.tripped)
        self.oversight = Oversight(
            settings,
            dataset=self.dataset,
            objective=self.objective,
            sampler=parts.sampler,
            ctx=self.ctx,
            student=self.shards["student"],
            ema=self.ema,
            ranks=ranks,
        )
        self.watchdog = Watchdog(settings.train.timeout_minutes, run.log)
        self._beat, self._before = 0.0, 0.0
        self._stop = threading.Event()
        self._agreed_stop, self._agreed_late = False, False
        self._saved = 0.0

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        run: RunDir,
        *,
        dataset: Dataset | None = None,
        echo: Callable[[str], None] = say,
        ranks: Ranks = ALONE,
    ) -> Trainer:
        """The trainer of a recipe.

        Args:
            dataset: the recipe's data, if they are in memory already.

        Raises:
            UserError: the teacher does not fit, or data cannot be read.
        """
        resolve_device(recipe.train.device)  # fails before anything is built
        with ranks.in_turn():  # the first one may fill a cache that the others read
            parts = assemble(recipe, dataset)
        agree_on_parts(parts.dataset.fingerprint, parts.roles, ranks)
        return cls(parts, recipe.settings, run, recipe=recipe, echo=echo, ranks=ranks)

    @cached_property
    def saver(self) -> Saver:
        """Writer of the checkpoints, on the first rank."""
        train = self.settings.train
        return Saver(
            self.run.checkpoints,
            keep_last=train.keep_last,
            keep_every=train.keep_every,
            run=self.run.identity(),
            teacher=self.teacher_digest,
        )

    # ---------------------------------------------------------------- loop

    def fit(self) -> FitResult:
        """Train to the last step, or until SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C, which save a checkpoint and return.

        Raises:
            OperationError: a loss or gradient is not finite; nothing was updated with it.
        """
        products = tf32(self.device) if self.precision == "fp32" else nullcontext()
        lock = held(self.run.path, "run") if self.ranks.first else nullcontext()
        with lock, torch.random.fork_rng(), products:
            return self._fit()

    def _fit(self) -> FitResult:
        for name, generator in _global_generators(self.device).items():
            generator.manual_seed(derived_seed(self.settings.seed, name))
        self._set_up()
        resume(self)
        total, every = self.settings.train.steps, self.settings.train
        logger = RunLogger if self.ranks.first else NoLogger
        self.logger = logger(
            self.run,
            start=self.ctx.step,
            total=total,
            echo=self.echo,
            trackers=self.settings.trackers,
            name=self.recipe.name if self.recipe else "",
            settings=flat((self.recipe or self.settings).model_dump(mode="json")),
        )
        if self.recipe is not None:
            self.logger.text("recipe", dump_recipe(self.recipe))
        self._status("running")
        reset_peak(self.device)
        self._before = peak_megabytes(self.device) - weights(self.roles)
        begun, size = self.ctx.step, self.settings.train.batch_size * self.dataset.spec.length
        try:
            with asked_to_end(self._stop), self.ranks.connected():
                self._saved = time.monotonic()
                while self.ctx.step < total and not self._asked_to_stop():
                    self.watchdog.step()
                    if not self._step_in_memory():
                        continue
                    self.logger.tick(self.ctx.step)
                    if self.ctx.step in self.oversight.due:
                        self._check_finite()
                        self._add(self.oversight.look(self.logger, self.run.samples))
                    if self.ctx.step % every.log_every == 0 or self.ctx.step == total:
                        self._check_finite()
                        tokens = (self.ctx.step - begun) * size
                        peak = peak_megabytes(self.device)
                        values = self._flush_metrics()
                        self.logger.row(self.ctx.step, values, tokens, self.loader.stalled, peak)
                        self.oversight.hear(values, self.logger, self.run.samples)
                        self._status("running")
                    self._heartbeat()
                    if self.ranks.first:
                        self.saver.check()
                    late = self._agreed_late if self.ranks.several else self._late()
                    if (self.ctx.step % every.checkpoint_every == 0 or late) and self.ctx.step < total:
                        self.save(wait=False)
                        self._saved, self._agreed_late = time.monotonic(), False
                return self._end()
        except StorageError as error:
            self._status("stopped", error=str(error))
            raise
        except BaseException as error:
            self._status("failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            self.watchdog.end()
            if self.ranks.first:
                self.saver.close()
            self.logger.close()
            self.loader.close()

    def _set_up(self) -> None:
        """The objective's `setup`; the first rank's comes before that of the others, unless they divide its work."""
        together = self.objective.divides_setup
        turn = nullcontext() if together or self.ctx.ranks.together else self.ranks.in_turn()
        with turn, tf32(self.device):  # whatever the training computes in, this is in float32
            self.objective.setup(self.ctx)
        if not self.ranks.first and not together:  # all ranks have evaluated the same
            for role in self.roles.values():
                role.evaluated = 0
        rest(self.roles.values())

    def _asked_to_stop(self) -> bool:
        """Whether a signal has come; of several ranks to one of them by the last step, as `_agree` has heard."""
        return self._agreed_stop if self.ranks.several else self._stop.is_set()

    def _late(self) -> bool:
        """Whether the last checkpoint is older than the recipe allows."""
        minutes = self.settings.train.checkpoint_minutes
        return minutes is not None and (time.monotonic() - self._saved) / 60 >= minutes

    def _agree(self, present: list[bool]) -> list[bool]:
        """What is true on any rank: of `present`; and, for later, whether to stop and whether a checkpoint is due."""
        stop, late, *present = self.ranks.any([self._stop.is_set(), self._late(), *present])
        self._agreed_stop, self._agreed_late = self._agreed_stop or stop, self._agreed_late or late
        return present

    def _end(self) -> FitResult:
        last = self._newest_checkpoint()
        # A run that was interrupted between its last checkpoint and its export has that checkpoint already.
        path = last if last and last.name == checkpoint_name(self.ctx.step) else self.save()
        finished = self.ctx.step >= self.settings.train.steps
        average = self.oversight.average(self.oversight.exported) if finished else {}
        if finished and self.ranks.first:
            metadata = {"step": str(self.ctx.step)}
            if self.recipe is not None:
                metadata |= {"recipe": dump_recipe(self.recipe), "format": EXPORT_FORMAT}
                if installed := installed_plugins(self.recipe.plugins):
                    metadata["plugins"] = json.dumps(installed)
            export_weights(self.run.export, average, metadata)
        if finished:
            self.oversight.compare(self.logger)
        else:
            self.logger.say(f"stopped at step {self.ctx.step}; saved {path}; continue with --resume {self.run.path}")
        self._status("finished" if finished else "stopped")
        return FitResult(finished, self.ctx.step)

    def _step_in_memory(self) -> bool:
        """`_step`; memory that runs out ends the training with a sentence on what took most of it.

        Raises:
            OperationError: memory ran out.
        """
        try:
            return self._step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            train, peak = self.settings.train, peak_megabytes(self.device) - self._before
            advice = explain(self.roles, self.trained, peak, train.batch_size, train.accumulate)
        raise OperationError(f"out of memory at step {self.ctx.step + 1}: {advice}")

    def _records_graphs(self) -> bool:
        """Whether trunks are recorded as CUDA graphs.

        Raises:
            UserError: networks are sharded.
        """
        if not self.settings.train.cuda_graphs:
            return False
        if any(shards.sharded for shards in self.shards.values()):
            raise UserError(
                "train.cuda_graphs: a graph has all of a network's weights in place, and these are sharded; set it to "
                "false, or parallel.strategy to ddp"
            )
        if self.device.type != "cuda":
            self.echo("train.cuda_graphs: there is no GPU, so no graphs are recorded")
        return self.device.type == "cuda"

    def _step(self) -> bool:
        """One optimiser step of the current phase; False if the training went back to its last checkpoint."""
        with one_step() if self._graphs else nullcontext():
            return self._update()

    def _update(self) -> bool:
        phase = self.turns.at(self.ctx.step)
        self._take_turns(phase)
        self.ctx.diagnose = self._diagnoses()
        self._seed_dropout()
        with refusals() as refused:
            loss = self._loss(phase, refused)
        norms = self.updates.clip(phase.train)
        found = self._judge(phase, loss, norms, refused)
        if found is not None:
            return self._recover(phase, found)
        rates = self.updates.apply(phase.train, self.ctx.step)
        if "student" in phase.train:
            self.ema.update(self.shards["student"].own)
        self._end_step(phase)
        self._add({f"{name}/lr": torch.tensor(rate) for name, rate in rates.items()})
        self._add({f"{phase.name}/loss": loss, **{f"{name}/grad_norm": norm for name, norm in norms.items()}})
        return True

    def _seed_dropout(self) -> None:
        """Of several ranks each draws its own dropout, as a function of the step, so that no state need be stored."""
        if self.ranks.size > 1:
            place = f"{self.loader.position}/{self.ranks.rank}"
            for name, generator in self.generators.items():
                generator.manual_seed(derived_seed(self.settings.seed, f"{name}/{place}"))

    def _add(self, values: dict[str, Tensor]) -> None:
        """Add numbers that are the same on all ranks to the sums of the log."""
        if self.ranks.first:
            self.sums.add(values)

    def _diagnoses(self) -> bool:
        """Whether this step measures what costs extra: every tenth round does, and the last before each log line."""
        cycle, every = len(self.turns.cycle), self.settings.train.log_every
        line = min((self.ctx.step // every + 1) * every, self.settings.train.steps)
        number = self.ctx.step // cycle
        return number % _DIAGNOSE_EVERY == 0 or number == (line - 1) // cycle

    def _judge(self, phase: Phase, loss: Tensor, norms: dict[str, Tensor], refused: list[Tensor]) -> Found | None:
        """The mishap of this step, if the recipe asks to act on it now; else the sentinel remembers it.

        Raises:
            OperationError: a draw was made from rows that are no distribution, and mishaps are acted on now.
        """
        flag = torch.stack([flag.to(loss.device) for flag in refused]).any() if refused else None
        if not self.mishaps.needs_each_step:
            self.sentinel.look(self.ctx.step, loss, norms, flag)
            return None
        flags = [] if flag is None else [flag.to(loss.dtype)]
        value, *rest = torch.stack([loss, *norms.values(), *flags]).tolist()  # one synchronisation for all of them
        refuse_if(bool(rest[len(norms) :] and rest[-1]))
        return self.mishaps.judge(phase.name, value, dict(zip(norms, rest, strict=False)))

    def _check_finite(self) -> None:
        """Stop if a step since the last check was not finite; from that step on no weight has changed.

        Raises:
            OperationError: there was one.
        """
        sighting = self.sentinel.read()
        if sighting is None:
            return
        self.ctx.step = sighting.step
        refuse_if(sighting.refused)
        phase = self.turns.at(sighting.step)
        found = self.mishaps.judge(phase.name, sighting.loss, sighting.norms)
        assert found is not None
        self._recover(phase, found)

    def _end_step(self, phase: Phase) -> None:
        self.ctx.step += 1
        self.batches.begin_after(self.ctx)
        self.objective.after_step(phase, self.ctx)

    def _recover(self, phase: Phase, found: Found) -> bool:
        """Leave out the update of a step (True), or go back to the last checkpoint (False).

        Raises:
            OperationError: the recipe says to stop, the budget is used up, or there is no checkpoint to go back to.
        """
        step = self.ctx.step + 1
        last = self.last_checkpoint() if found.action != "skip" else None
        if found.action == "stop" or (found.action == "back" and last is None):
            raise OperationError(f"{found.what} at step {step}; stopped before the update; {advice(last)}")
        spent = self.mishaps.spend(found, step)
        self.sums.clear()
        if last is None:
            self.updates.forget(phase.train)
            self._end_step(phase)
            self.logger.warn(f"step {step}: {found.what}; its update is left out ({spent})", step)
            return True
        go_back(self, last)
        self.logger.warn(f"step {step}: {found.what}; went back to {last.name} ({spent})", self.ctx.step)
        return False

    def _take_turns(self, phase: Phase) -> None:
        """Enable gradients and dropout for the roles that the phase trains.

        Dropout in any other role would add noise to the gradient: its prediction is the target.
        """
        for name, role in self.roles.items():
            trained = name in phase.train
            role.take_gradients(trained)
            if role.training != trained:
                role.train(trained)

    def _loss(self, phase: Phase, refused: list[Tensor] | None = None) -> Tensor:
        """Backward pass of one batch in its micro-batches; returns its mean loss.

        A micro-batch weighs as many terms as its mean has, so that gradients do not depend on how a batch is divided,
        nor on the number of ranks: each has its share, and gradients and terms are summed over them.

        Args:
            refused: flags of draws from rows that are no distribution; gets those of other ranks.
        """
        losses, terms, parts = [], list[Tensor](), self.settings.train.accumulate
        for number, batch in enumerate(self.batches.next(self.ctx, parts), start=1):
            divided = parts > 1 or self.ranks.size > 1
            with summing(self.roles.values(), last=number == parts):
                loss, weight = self._micro_batch(phase, batch, divided)
            losses.append(loss)
            terms.extend([] if weight is None else [weight])
        loss, total = torch.stack(losses).sum(), torch.stack(terms).sum() if terms else None
        rest(self.roles.values())
        return self.updates.gather(phase, loss, total, [] if refused is None else refused, self._agree)

    def batch(self, rows: Tensor) -> Batch:
        """The training samples `rows`, with the conditions of all roles; `ctx` draws for them as in the next step."""
        return self.batches.of_rows(self.ctx, rows)

    def _micro_batch(self, phase: Phase, batch: Batch, divided: bool) -> tuple[Tensor, Tensor | None]:
        """Backward pass of one micro-batch; returns its loss times its weight, and the weight.

        The weight is None if all samples weigh the same; such micro-batches count by their size.
        """
        self.ctx.batch, self.ctx.terms = batch, None
        share = batch.size / self.settings.train.batch_size
        precision = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with precision, row_steps_by(self._row_step):
            out = self.objective.loss(phase, batch, self.ctx)
        terms = self.ctx.terms if divided else None
        weight = None if terms is None else terms / batch.x0.numel() * share
        loss = out.loss * (share if weight is None else weight)
        for name, value in out.metrics.items():  # before the backward pass, which frees what FSDP has gathered
            total, count = value if isinstance(value, tuple) else (value * share, share)
            self.sums.add({f"{phase.name}/{name}": total}, count)
        loss.backward()
        return loss.detach(), weight

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint, once it is on disk."""
        if self.ranks.first:
            self.saver.wait()
        return self._newest_checkpoint()

    def _newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint; of several ranks the one that the first sees."""
        last = self.run.last_checkpoint() if self.ranks.first else None
        name = self.ranks.of_first(last.name if last else "")
        return self.run.checkpoints / name if name else None

    # ------------------------------------------------------------- numbers

    def _flush_metrics(self) -> dict[str, float]:
        """Means since the last line, and the number of samples that networks have evaluated in this training."""
        means = self.sums.over(self.ranks).means()
        self.sums.clear()
        return {**means, "evaluations": sum(self.evaluated().values())}

    def evaluated(self) -> dict[str, int]:
        """Number of samples that each network has evaluated, on all ranks."""
        counts = [json.loads(text) for text in self.ranks.texts(json.dumps([r.evaluated for r in self.roles.values()]))]
        return dict(zip(self.roles, map(sum, zip(*counts, strict=True)), strict=True))

    def _status(self, state: str, **details: object) -> None:
        self.logger.status(state, step=self.ctx.step, steps=self.settings.train.steps, **whoami(), **details)
        self._beat = time.monotonic()

    def _heartbeat(self) -> None:
        """Say that the run lives, if that was last said a while ago."""
        if time.monotonic() - self._beat >= _HEARTBEAT:
            self._status("running")

    # --------------------------------------------------------------- state

    def state_dict(self) -> dict[str, object]:
        """The complete state of the training; all ranks ask for it together."""
        return state_of(self)

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned.

        Raises:
            OperationError: the data, or models that the objective names, are not those that the run began with.
        """
        restore(self, state)

    def save(self, *, wait: bool = True) -> Path:
        """Write a checkpoint of the current step; returns its folder.

        Args:
            wait: whether to return only when it is on disk; else it is checked and written while the training goes on.

        Raises:
            OperationError: a loss since the last check is not finite, or a weight (without `wait` that is raised by
                one of the next steps); nothing was saved.
            StorageError: it, or the checkpoint before it, could not be written.
        """
        self._check_finite()
        state = self.state_dict()
        if not self.ranks.first:
            return self.run.checkpoints / checkpoint_name(self.ctx.step)
        path = self.saver.save(self.ctx.step, state)
        if wait:
            self.saver.wait()
        return path


def _nowhere(line: str) -> None:
    """The console of all ranks but the first."""


def _global_generators(device: torch.device) -> dict[str, torch.Generator]:
    """torch's global generators, from which dropout draws; every other draw has a stream of its own."""
    generators = {"torch": torch.default_generator}
    if device.type == "cuda":
        generators["torch_cuda"] = torch.cuda.default_generators[torch.cuda.current_device()]
    return generators

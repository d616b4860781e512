"""One call of `fewstep benchmark`: what is known so far, and the work that is left."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import groupby

from fewstep.bench.plan import Plan, PreparedCase
from fewstep.bench.progress import Stage, SuiteClock
from fewstep.bench.results import CaseResult, Failure, Results, Row, SuiteInfo, model_id
from fewstep.bench.rows import Model, Slot, describe_case, measure, open_model, plan_slots, trained_steps
from fewstep.bench.suite import REFERENCE
from fewstep.bench.summary import estimate, judge, shown, summarise
from fewstep.bench.tables import titled
from fewstep.errors import FewstepError, UserError
from fewstep.training.launch import fit
from fewstep.training.rundir import describe_environment

_EVERY = 5.0
"""Seconds between two lines while samples are drawn."""
_STEP = re.compile(r"step\s+(\d+)/\d+ ")


class Session:
    """Does what is left of a suite; `results.json` is whole, and holds all that was measured, at any moment.

    Args:
        plan: the suite with its recipes and data.
        command: what a person types to run it.
        say: where console lines go.

    Raises:
        UserError: the folder's results are damaged, or not this suite's.
    """

    def __init__(self, plan: Plan, command: str, say: Callable[[str], None]) -> None:
        self.plan, self.suite, self.command, self.say = plan, plan.suite, command, say
        self.file = plan.folder / "results.json"
        self.environment = describe_environment()
        self.slots = plan_slots(plan)
        self.rows: dict[str, Row] = {}
        self.cases: dict[str, CaseResult] = {}
        self.failures: list[Failure] = []
        self.finished = False
        self._recall()
        self.stages = [f"sample {REFERENCE}"]
        for case in plan.cases:
            kinds = ["train", "sample"] if case.trained else ["sample"]
            self.stages += [f"{kind} {case.id}" for kind in kinds]
        self.clock = SuiteClock(self._stage(name) for name in self.stages)

    def _recall(self) -> None:
        """Take over what an earlier call measured under the same conditions."""
        if not self.file.exists():
            return
        old = Results.load(self.file)
        if (old.suite.name, old.suite.quick) != (self.suite.name, self.plan.loaded.quick):
            held = f"{'a quick run' if old.suite.quick else 'a full run'} of suite '{old.suite.name}'"
            raise UserError(f"'{self.plan.folder}' holds {held}; choose another folder with --out")
        whole = [row for row in old.rows if row.sheet is None or (self.plan.folder / row.sheet).exists()]
        self.rows = {row.key: row for row in whole}
        digests = {case.id: case.digest for case in self.plan.cases}
        self.cases = {case.id: case for case in old.cases if digests.get(case.id) == case.digest}

    def _stage(self, name: str) -> Stage:
        """What a stage has to do, in forward passes over a sample, and how much of it was done before."""
        kind, _, model = name.partition(" ")
        if kind == "train":
            case = next(case for case in self.plan.cases if case.id == model)
            return Stage("train", case.train_work, case.train_work * trained_steps(case.run) / case.recipe.train.steps)
        slots = self._slots_of(model)
        done = [slot for slot in slots if slot.key in self.rows]
        return Stage("sample", sum(map(self._work, slots)), sum(map(self._work, done)))

    def _slots_of(self, model: str) -> list[Slot]:
        return [slot for slot in self.slots if model_id(slot.case, slot.train_seed) == model]

    def _work(self, slot: Slot) -> float:
        return float(self.suite.samples * self._evaluations(slot))

    def _evaluations(self, slot: Slot) -> int:
        """What a sample takes, about: a model of blocks goes through the steps for each, and then reads it."""
        case = next((case for case in self.plan.cases if case.name == slot.case), None)
        size = getattr(case.recipe.backbone, "block_size", None) if case else None
        steps = slot.steps or 0
        return steps if size is None else (steps + 1) * (self.plan.dataset.spec.length // size)

    # ---------------------------------------------------------------- work

    def run(self) -> bool:
        """Do all that is left; False if a signal to the trainer stopped it.

        Raises:
            FewstepError: a model that metrics ask could not be trained, so nothing can be measured.
            KeyboardInterrupt: stopped while sampling.
        """
        for case in self.plan.references.values():
            if not self._train(case):
                return False
        self._announce(f"sample {REFERENCE}", f"score real samples: {self._amount(())}")
        self._sample(REFERENCE, None)
        for case in self.plan.cases:
            failed = [failure.case for failure in self.failures if failure.case in case.needed]
            if failed:
                self._fail(case, f"skipped, since it learns from '{failed[0]}', which failed")
                continue
            try:
                if case.trained and not self._train(case):
                    return False
                self._measure(case)
            except FewstepError as error:
                self._fail(case, str(error))
        self.finished = True
        self.save()
        return True

    def _train(self, case: PreparedCase) -> bool:
        """Train a case unless that was done; False if a signal stopped it."""
        stage, total, done = f"train {case.id}", case.recipe.train.steps, trained_steps(case.run)
        if done == total and case.run.status["state"] == "finished":
            self._announce(stage, f"train {titled(case.id, case.label)}: finished before, reused")
            return True
        self._announce(stage, f"train {titled(case.id, case.label)}: {total} steps")
        try:
            result = fit(case.loaded, case.run, dataset=self.plan.dataset, echo=self._training_lines(case, done))
        finally:
            self._record(case, None)
        return result.finished

    def _training_lines(self, case: PreparedCase, done: int) -> Callable[[str], None]:
        """Passes the trainer's lines on, those about progress with the time that the whole suite still takes."""
        each, seen = case.train_work / case.recipe.train.steps, done

        def echo(line: str) -> None:
            nonlocal seen
            found = _STEP.match(line)
            if found and int(found[1]) > seen:
                self.clock.advance((int(found[1]) - seen) * each)
                seen = int(found[1])
                line += f"  | {self.clock.text()}"
            self.say(f"  {line}")

        return echo

    def _measure(self, case: PreparedCase) -> None:
        """Sample and score a case."""
        self._announce(f"sample {case.id}", f"sample {titled(case.id, case.label)}: {self._amount(case.spec.steps)}")
        model = open_model(case, self.plan.dataset)
        self._record(case, model.parameters)
        self._sample(case.id, model)

    def _sample(self, name: str, model: Model | None) -> None:
        """Measure the rows of a model that are missing."""
        for _, group in groupby(self._slots_of(name), key=lambda slot: slot.steps):
            same = list(group)
            missing = [slot for slot in same if slot.key not in self.rows]
            for slot in missing:
                commit = self.environment["commit"]
                row = measure(self.plan, slot, model, commit=commit, progress=self._sampling_lines(slot))
                self.rows[slot.key] = row
                self.save()
            self._tell([self.rows[slot.key] for slot in same], reused=not missing)

    def _sampling_lines(self, slot: Slot) -> Callable[[int], None]:
        """Counts samples for the clock and says so every few seconds."""
        drawn, said = 0, time.monotonic()

        def progress(done: int) -> None:
            nonlocal drawn, said
            self.clock.advance((done - drawn) * self._evaluations(slot))
            drawn = done
            if time.monotonic() - said > _EVERY and done < self.suite.samples:
                said = time.monotonic()
                where = f"{slot.steps} steps, seed {slot.seed}: {done}/{self.suite.samples} samples"
                self.say(f"  {where}  | {self.clock.text()}")

        return progress

    # --------------------------------------------------------------- words

    def _announce(self, stage: str, text: str) -> None:
        index = self.stages.index(stage)
        self.clock.start(index)
        self.say(f"[{index + 1}/{len(self.stages)}] {text}  | {self.clock.text()}")

    def _amount(self, steps: Sequence[int]) -> str:
        """ "at 4, 8 steps, 600 samples, 3 seeds"."""
        seeds = len(self.suite.seeds)
        parts = [f"at {', '.join(map(str, steps))} steps"] if steps else []
        return ", ".join([*parts, f"{self.suite.samples} samples", f"{seeds} seed{'s' if seeds > 1 else ''}"])

    def _tell(self, rows: Sequence[Row], *, reused: bool) -> None:
        value = shown(estimate([row.values[self.suite.headline] for row in rows]))
        where = "real samples" if rows[0].nfe is None else f"{rows[0].nfe} NFE"
        tail = "  (measured before)" if reused else f"  | {self.clock.text()}"
        self.say(f"  {where}: {self.suite.headline} {value}{tail}")

    # ------------------------------------------------------------- results

    def _record(self, case: PreparedCase, parameters: int | None) -> None:
        self.cases[case.id] = describe_case(self.plan, case, parameters)
        self.save()

    def _fail(self, case: PreparedCase, reason: str) -> None:
        """Note that a case cannot be completed, and that nothing more is done for it."""
        self.say(f"  {case.id} is not complete: {reason}")
        self.failures.append(Failure(case=case.id, reason=reason))
        for kind in ("train", "sample"):
            if f"{kind} {case.id}" in self.stages:
                self.clock.drop(self.stages.index(f"{kind} {case.id}"))
        self.save()

    def save(self) -> None:
        self.results().save(self.file)

    def results(self) -> Results:
        """Everything known so far, in the suite's order."""
        suite = self.suite
        rows = [self.rows[slot.key] for slot in self.slots if slot.key in self.rows]
        summary = summarise(rows)
        direction = suite.directions[suite.headline]
        about = SuiteInfo(
            name=suite.name,
            title=suite.title,
            digest=self.plan.digest,
            quick=self.plan.loaded.quick,
            seeds=suite.seeds,
            train_seeds=suite.train_seeds,
            samples=suite.samples,
            command=self.command,
        )
        return Results(
            suite=about,
            complete=self.finished and not self.failures,
            environment=self.environment,
            commit=self.environment["commit"],
            date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
            headline=suite.headline,
            diversity=suite.diversity,
            direction="higher" if direction == "higher" else "lower",
            directions=suite.directions,
            cases=tuple(self.cases[case.id] for case in self.plan.cases if case.id in self.cases),
            rows=tuple(rows),
            summary=tuple(summary),
            claims=tuple(judge(claim, suite.headline, direction, summary) for claim in suite.claims),
            failures=tuple(self.failures),
        )

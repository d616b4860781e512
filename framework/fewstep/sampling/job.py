"""The job behind `fewstep sample`: draw the samples of a request into a folder, batch by batch.

Shapes: N samples, M templates, L tokens.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.core.errors import OperationError, UserError
from fewstep.core.version import __version__
from fewstep.denoisers.base import Denoiser
from fewstep.recipe import with_sampler
from fewstep.runs.build import usual_steps
from fewstep.runs.environment import commit
from fewstep.runs.guide import guide_of
from fewstep.runs.models import TrainedModel, load_model
from fewstep.runtime.digest import digest, weights_digest
from fewstep.runtime.files import publish
from fewstep.runtime.progress import Narrator
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS, OnStep, Sampler, Samples, StepState
from fewstep.samplers.walk import Walk, WalkSampler
from fewstep.sampling.animation import animate, file_name, record, shown
from fewstep.sampling.draw import average, draw_batch
from fewstep.sampling.folder import Batch, JobFolder, beside
from fewstep.sampling.labels import condition_on, labels_asked_for, labels_like_data
from fewstep.sampling.memory import fitting_batch
from fewstep.sampling.output import jsonl, write_samples
from fewstep.sampling.request import SampleRequest
from fewstep.sampling.templates import in_turn, templates

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A request with everything that it takes: the model, its denoiser as the sampler wants it (a classifier may guide
    it), `labels` (LongTensor [N]) and `given` tokens (LongTensor [N, L])."""

    request: SampleRequest
    model: TrainedModel
    denoiser: Denoiser
    sampler: Sampler
    steps: int
    labels: Tensor | None
    templates: Tensor | None
    given: Tensor | None

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the samples, as plain data."""
        r, model, rows = self.request, self.model, self.templates
        return {
            "run": str(model.path),
            "step": model.step,
            "weights": model.weights,
            "weights_digest": weights_digest(model.denoiser),
            "data_digest": model.dataset.fingerprint[:16],
            "sampler": self.sampler.config.model_dump(mode="json"),
            "samples": r.count,
            "steps": self.steps,
            "seed": r.seed,
            **({} if self.labels is None else {"labels": self.labels.tolist()}),
            "templates": None if rows is None else {"count": len(rows), "digest": digest(rows)},
            "fewstep": __version__,
            "commit": commit(),
        }

    def draw(self, numbers: range, on_step: OnStep | None = None) -> Samples:
        """The samples with these numbers."""
        return draw_batch(
            self.sampler,
            self.denoiser,
            numbers,
            steps=self.steps,
            seed=self.request.seed,
            labels=self.labels,
            given=self.given,
            on_step=on_step,
        )


def sample_run(run: str, request: SampleRequest | None = None, *, say: Say = lambda line: None) -> Path:
    """Draw samples from a run into a folder.

    Args:
        run: run folder, or an exported file.
        say: told in one line what was done.

    Returns:
        The sheet to look at; the folder while samples of other processes are missing.

    Raises:
        UserError: no such run or class, a setting that its sampler or network does not have, templates that do not
            fit its data, or an unfinished job in the folder that this one should not or cannot continue.
    """
    _choose_gpu()
    job = prepare(run, request or SampleRequest())
    r, model = job.request, job.model
    path = Path(r.out) if r.out else model.run.samples / _name(job)
    folder = JobFolder(path, job.facts, r.count)
    size = folder.begin(r.part, resume=r.resume, batch_size=lambda: batch_size_of(job))
    if size is not None:
        try:
            _fill(folder, job, size)
        except KeyboardInterrupt:
            kept = f"{len(folder.done())} of {r.count} samples"
            print(f"kept {kept} in {path}; --resume continues", file=sys.stderr, flush=True)
            raise
        if not folder.join(lambda beside, batch: _finish(beside, batch, job)):
            missing = f"{r.count - len(folder.done())} of {r.count} samples"
            say(f"part {r.part} is done in {path}; {missing} are missing, and the last part joins all")
            return path
    if r.animate:
        _animate(path, job)
    sheet = next(file for suffix in ("txt", "png") if (file := path / f"samples.{suffix}").exists())
    say(f"wrote {sheet}" if size is not None else f"found {sheet}, drawn before with these settings")
    return sheet


def prepare(run: str, request: SampleRequest) -> Job:
    """Load the model, and check the request against it."""
    model = load_model(run, weights=request.weights)
    return job_of(model, request, templates(request, model.dataset))


def job_of(model: TrainedModel, request: SampleRequest, rows: Tensor | None) -> Job:
    """A request to a model that is loaded.

    Args:
        rows: templates, LongTensor [M, L], if any tokens are given.
    """
    steps = request.steps or usual_steps(model.recipe)
    sampler = _sampler(model, request, steps)
    given = None if rows is None else in_turn(rows, request.count)
    denoiser = guide_of(sampler, model.dataset)(model.denoiser)
    return Job(request, model, denoiser, sampler, steps, _labels(model, denoiser, request), rows, given)


def _fill(folder: JobFolder, job: Job, size: int) -> None:
    """Draw what is missing of this process's share: of the N-th batches those that fall to it."""
    r, part = job.request, job.request.part
    done = folder.done()
    shares = range((part.index - 1) * size, r.count, part.of * size)
    runs = [run for first in shares for run in _missing(range(first, min(first + size, r.count)), done)]
    wanted, drawn = sum(map(len, runs)), 0
    progress = Narrator(f"{job.steps} steps")
    for run in runs:
        for numbers in _chunks(run, r.batch_size or size):
            begun = time.monotonic()
            try:
                samples = job.draw(numbers)
            except (MemoryError, torch.OutOfMemoryError):
                told = f"out of memory with {len(numbers)} samples at once"
                raise OperationError(f"{told}; continue with --resume and a smaller --batch-size") from None
            tokens = samples.x.cpu()
            batch = Batch(numbers, tokens, samples.nfe * len(numbers), time.monotonic() - begun)
            folder.keep(batch, jsonl(numbers, tokens, job.labels, job.model.dataset))
            drawn += len(numbers)
            progress(drawn, wanted)


def _missing(numbers: range, done: set[int]) -> Iterator[range]:
    """The stretches of `numbers` that are not done."""
    first = None
    for number in numbers:
        if number in done and first is not None:
            yield range(first, number)
            first = None
        elif number not in done and first is None:
            first = number
    if first is not None:
        yield range(first, numbers.stop)


def _chunks(numbers: range, size: int) -> Iterator[range]:
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]


def _finish(folder: Path, batch: Batch, job: Job) -> dict[str, Any]:
    """Write what people see of all samples; returns what is told of them."""
    write_samples(folder, batch.tokens, job.labels, job.model.dataset)
    return {
        "nfe": average(batch.evaluations, len(batch.numbers)),
        "seconds": round(batch.seconds, 3),
        "device": job.denoiser.device.type,
    }


def _animate(path: Path, job: Job) -> None:
    """Draw the first samples once more, and show how they come about."""
    dataset, denoiser, sampler = job.model.dataset, job.denoiser, job.sampler
    numbers = range(shown(dataset, job.request.count))
    start, given = None, None if job.given is None else job.given[: len(numbers)]
    if isinstance(sampler, WalkSampler):
        cond = condition_on(None, denoiser.device, given)
        walk = Walk(denoiser, sampler.config, cond, SampleStreams(job.request.seed, numbers))
        start = sampler.start(walk, len(numbers), denoiser.length)
    frames = record(lambda on_step: job.draw(numbers, on_step=on_step), start)
    title = f"{job.model.recipe.name}: {job.steps} steps, seed {job.request.seed}"
    with beside(path) as folder:
        file = folder / file_name(dataset)
        animate(file, dataset, frames, given, title)
        publish(file, path / file.name)


def batch_size_of(job: Job) -> int:
    """Samples drawn at once: as asked, or what fits into memory, and no more than leaves each process a share."""
    r = job.request
    if r.batch_size:
        return r.batch_size
    fitting = fitting_batch(job.denoiser, lambda numbers: _one_step(job, numbers), r.count)
    return max(1, min(fitting, -(-r.count // r.part.of)))


class _Enough(Exception):
    """One step was taken."""


def _one_step(job: Job, numbers: range) -> None:
    """Begin to draw samples, and leave it at the first step."""

    def stop(state: StepState) -> None:
        raise _Enough

    with suppress(_Enough):
        job.draw(numbers, stop)


def _sampler(model: TrainedModel, request: SampleRequest, steps: int) -> Sampler:
    """The recipe's sampler, another, or one with other settings."""
    recipe, changes = model.recipe, request.settings
    if "guidance" in changes and not model.denoiser.conditioned_on_labels:
        raise UserError(f"'{model.path}' was trained without labels (label_input), by which guidance goes")
    if request.sampler is not None:
        recipe = with_sampler(recipe, request.sampler, steps=[steps])
    unknown = changes.keys() - type(recipe.sampler).model_fields.keys()
    if unknown:
        raise UserError(f"sampler '{recipe.sampler.type}' has no setting '{min(unknown)}'")
    return SAMPLERS.build((with_sampler(recipe, settings=changes, steps=[steps]) if changes else recipe).sampler)


def _labels(model: TrainedModel, denoiser: Denoiser, request: SampleRequest) -> Tensor | None:
    """The classes to draw samples of, for a model that knows any, or is guided by one that does."""
    if request.label is None:
        return labels_like_data(denoiser, model.dataset, request.count, request.seed)
    if not denoiser.conditioned_on_labels:
        raise UserError(f"'{model.path}' was trained without labels (label_input); leave --label out")
    return labels_asked_for(request.label, model.dataset, request.count)


def _name(job: Job) -> str:
    """A folder's name that tells requests apart."""
    r = job.request
    marks: dict[str, Any] = {"steps": job.steps, "seed": r.seed, "n": r.count, **r.settings, "label": r.label}
    if r.sampler is not None:
        config = job.sampler.config
        marks["sampler-"] = f"{config.type}-{hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:6]}"
    if job.templates is not None:
        marks["given-"] = digest(job.templates)[:6]
    marks["raw"] = "" if r.weights == "raw" else None
    return "-".join(f"{key}{value}" for key, value in marks.items() if value is not None)


def _choose_gpu() -> None:
    """Under torchrun each process of a machine has a GPU of its own, as far as there are any."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())

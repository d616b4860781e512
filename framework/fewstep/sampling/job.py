"""The job behind `fewstep sample`: draw the samples of a request into a folder, batch by batch.

Shapes: N samples, M templates, L tokens.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.core.errors import OperationError, UserError, is_out_of_memory
from fewstep.core.places import unlinked
from fewstep.core.version import __version__
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.compiled import compile_trunks
from fewstep.recipe import with_sampler
from fewstep.runs.build import usual_steps
from fewstep.runs.environment import commit
from fewstep.runs.local import find_named
from fewstep.runs.models import TrainedModel, build_component
from fewstep.runtime.digest import digest, weights_digest
from fewstep.runtime.files import publish
from fewstep.runtime.progress import Narrator, Progress
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS, OnStep, Sampler, Samples, StepState
from fewstep.samplers.walk import Walk, WalkSampler
from fewstep.sampling.animation import COLUMNS, Frame, animate, animated_count, file_name, record_frames
from fewstep.sampling.draw import average, draw_batch
from fewstep.sampling.folder import TENSORS, Batch, JobFolder, missing_in, staging_folder
from fewstep.sampling.labels import condition_on, labels_like_data, requested_labels
from fewstep.sampling.memory import draw_fitting, largest_batch
from fewstep.sampling.output import jsonl, write_samples
from fewstep.sampling.preview import picture_size, preview
from fewstep.sampling.request import Part, SampleRequest
from fewstep.sampling.templates import approximation, cycle_rows, templates

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A request with the model and tensors that it needs.

    `denoiser` is the model's, wrapped in a guide if the sampler asks for one. `labels` is LongTensor [N], `templates`
    LongTensor [M, L], and `sample_templates` LongTensor [N, L] has the template of each sample.
    """

    request: SampleRequest
    model: TrainedModel
    denoiser: Denoiser
    sampler: Sampler
    steps: int
    labels: Tensor | None
    templates: Tensor | None
    sample_templates: Tensor | None

    @property
    def facts(self) -> dict[str, object]:
        """All settings that the samples depend on, as plain data."""
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
        """Draw the samples with these numbers."""
        return draw_batch(
            self.sampler,
            self.denoiser,
            numbers,
            steps=self.steps,
            seed=self.request.seed,
            labels=self.labels,
            templates=self.sample_templates,
            on_step=on_step,
        )

    def record(self, numbers: range) -> tuple[Samples, list[Frame]]:
        """Draw samples, with their state after each step, preceded by the noise that they start from if it is known."""
        start, device = None, self.denoiser.device
        if isinstance(self.sampler, WalkSampler):
            cond = condition_on(None, device, self._templates_of(numbers))
            streams = SampleStreams(self.request.seed, numbers, device=device)
            walk = Walk(self.denoiser, self.sampler.config, cond, streams)
            start = walk.to_ids(self.sampler.start(walk, len(numbers), self.denoiser.length))
        return record_frames(lambda on_step: self.draw(numbers, on_step=on_step), start)

    def animate(self, file: Path, frames: list[Frame], numbers: range, columns: int = COLUMNS) -> None:
        """Write the animation of recorded samples."""
        title = f"{self.model.recipe.name}: {self.steps} steps, seed {self.request.seed}"
        animate(file, self.model.dataset, frames, self._templates_of(numbers), title, columns)

    def _templates_of(self, numbers: range) -> Tensor | None:
        rows = self.sample_templates
        return None if rows is None else rows[numbers.start : numbers.stop]

    def draw_all(
        self, numbers: range, size: int, advice: str, progress: Progress | None = None
    ) -> Iterator[tuple[range, Samples]]:
        """Draw the samples with these numbers in batches, which get smaller when memory runs out.

        Args:
            size: samples of a batch, unless the request has its own number, which stays.
            advice: what to do when memory does not suffice.
            progress: called after each step, with steps of samples.

        Raises:
            OperationError: a batch of the requested size, or a single sample, does not fit into memory.
        """
        fixed = self.request.batch_size

        def drawn(part: range) -> Samples:
            if progress is None:
                return self.draw(part)
            report = progress
            samples = self.draw(part, lambda state: report(*self._steps_done(numbers, part, state)))
            report((part.stop - numbers.start) * self.steps, len(numbers) * self.steps)
            return samples

        try:
            if fixed is None:
                yield from draw_fitting(drawn, numbers, size, self.denoiser.device)
            else:
                parts = (numbers[first : first + fixed] for first in range(0, len(numbers), fixed))
                yield from ((part, drawn(part)) for part in parts)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OperationError(f"out of memory with {fixed or 1} samples at once; {advice}") from None

    def _steps_done(self, numbers: range, part: range, state: StepState) -> tuple[int, int]:
        """Steps of samples that are done after a step of `part`, and all of them; walks in blocks take more steps."""
        done = min(state.index + 1, self.steps - 1)
        return (part.start - numbers.start) * self.steps + done * len(part), len(numbers) * self.steps


Fill = Callable[[JobFolder, Job, int], str]
"""Draws the missing samples of a job's share, in batches of a size; returns the device's type."""


def sample_run(
    run: str,
    request: SampleRequest | None = None,
    *,
    say: Say = lambda line: None,
    fill: Fill | None = None,
) -> Path:
    """Draw samples from a run into a folder.

    Args:
        run: run folder, an exported folder or file, a shipped model, or OWNER/NAME on the Hugging Face Hub.
        request: number, settings and destination of the samples.
        say: called with each line of the report: the first samples, and what was written.
        fill: what draws the missing samples; None draws them in this process.

    Returns:
        Path of the sheet, or of the folder while samples of other processes are missing.

    Raises:
        UserError: the run, the class or a setting does not exist; templates do not fit the data; or the folder holds
            an unfinished job that this request does not continue.
        OperationError: a living process draws the same share.
    """
    _choose_gpu()
    job = prepare(run, request or SampleRequest())
    compile_trunks(job.denoiser, job.request.compile, job.denoiser.device, "the network", say, graphs=True)
    r = job.request
    path = Path(r.out) if r.out else unlinked(unlinked(job.model.run.samples) / _name(job))
    with closing(JobFolder(path, job.facts, r.count)) as folder:
        return _draw_into(folder, job, fill or _fill, say)


def _draw_into(folder: JobFolder, job: Job, fill: Fill, say: Say) -> Path:
    """Draw the missing samples of a job, and join them if all are there; returns what `sample_run` does."""
    r, path = job.request, folder.path
    size = folder.begin(r.part, resume=r.resume, batch_size=lambda: batch_size_of(job))
    if size is not None:
        try:
            device = fill(folder, job, size)
        except KeyboardInterrupt:
            stored = f"{len(folder.stored_numbers())} of {r.count} samples"
            print(f"kept {stored} in {path}; --resume continues", file=sys.stderr, flush=True)
            raise
        if not folder.join(lambda staging, batch: _finish(staging, batch, job, device)):
            missing = f"{r.count - len(folder.stored_numbers())} of {r.count} samples"
            say(f"part {r.part} is done in {path}; {missing} are missing, and the last part joins all")
            return path
    if r.animate:
        _animate(path, job)
    sheet = next(file for suffix in ("txt", "png") if (file := path / f"samples.{suffix}").exists())
    for line in preview(path / TENSORS, job.model.dataset):
        say(line)
    place = f"{sheet}{picture_size(sheet)}"
    say(f"wrote {place}" if size is not None else f"found {place}, drawn before with these settings")
    return sheet


def prepare(run: str, request: SampleRequest) -> Job:
    """Load the model and check the request against it."""
    model = find_named(run, request.weights).build(None, request.device, "--device")
    return job_of(model, request, templates(request, model.dataset))


def job_of(model: TrainedModel, request: SampleRequest, rows: Tensor | None) -> Job:
    """The job of a request to a loaded model.

    Args:
        rows: templates, LongTensor [M, L]; None if all tokens are drawn.
    """
    steps = request.steps or usual_steps(model.recipe)
    sampler = _sampler(model, request, steps)
    sample_templates = None if rows is None else cycle_rows(rows, request.count)
    denoiser = sampler.guide(model.denoiser, model.dataset)
    if rows is not None and (warning := approximation(denoiser, rows)):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return Job(request, model, denoiser, sampler, steps, _labels(model, denoiser, request), rows, sample_templates)


def _fill(folder: JobFolder, job: Job, size: int) -> str:
    """Draw the missing samples of this process's share: every N-th batch, for N processes."""
    gaps = missing_ranges(folder, job.request.part, size)
    total, count = sum(map(len, gaps)), 0
    progress = Narrator(f"{job.steps} steps")

    def stored(number: int) -> None:
        nonlocal count
        count += number
        progress(count, total)

    store_ranges(folder, job, gaps, size, stored)
    return job.denoiser.device.type


def missing_ranges(folder: JobFolder, part: Part, size: int) -> list[range]:
    """Numbers of a share's samples that are not stored, at most `size` in a range."""
    stored = folder.stored_numbers()
    starts = range((part.index - 1) * size, folder.count, part.of * size)
    return [gap for first in starts for gap in missing_in(range(first, min(first + size, folder.count)), stored)]


def store_ranges(
    folder: JobFolder, job: Job, ranges: Sequence[range], size: int, stored: Callable[[int], None]
) -> None:
    """Draw ranges of samples, and store each batch once it is drawn.

    Args:
        size: samples of a batch; fewer when memory runs out.
        stored: called with the number of samples of each stored batch.
    """
    for numbers in ranges:
        start = time.monotonic()
        for batch_numbers, samples in job.draw_all(numbers, size, "continue with --resume and a smaller --batch-size"):
            tokens, count = samples.x.cpu(), len(batch_numbers)
            batch = Batch(batch_numbers, tokens, samples.nfe * count, time.monotonic() - start)
            folder.store(batch, jsonl(batch_numbers, tokens, job.labels, job.model.dataset))
            stored(count)
            start = time.monotonic()


def _finish(folder: Path, batch: Batch, job: Job, device: str) -> dict[str, object]:
    """Write the files of all samples; returns facts for `sample.json`."""
    write_samples(folder, batch.tokens, job.labels, job.model.dataset)
    return {
        "nfe": average(batch.evaluations, len(batch.numbers)),
        "seconds": round(batch.seconds, 3),
        "device": device,
    }


def _animate(path: Path, job: Job) -> None:
    """Draw the first samples once more and animate their steps."""
    numbers = range(animated_count(job.model.dataset, job.request.count))
    frames = job.record(numbers)[1]
    with staging_folder(path) as folder:
        file = folder / file_name(job.model.dataset)
        job.animate(file, frames, numbers)
        publish(file, path / file.name)


def batch_size_of(job: Job) -> int:
    """Samples drawn at once: the requested number, or the limit of the device, at most one process's share."""
    r = job.request
    return r.batch_size or max(1, min(largest_batch(job.denoiser.device), -(-r.count // r.part.of)))


def _sampler(model: TrainedModel, request: SampleRequest, steps: int) -> Sampler:
    """The recipe's sampler, or another one, with the changed settings of the request."""
    recipe, changes = model.recipe, request.settings
    if "guidance" in changes and not model.denoiser.conditioned_on_labels:
        raise UserError(f"'{model.path}' was trained without labels (label_input), by which guidance goes")
    if request.sampler is not None:
        recipe = with_sampler(recipe, request.sampler, steps=[steps])
    unknown = changes.keys() - type(recipe.sampler).model_fields.keys()
    if unknown:
        raise UserError(f"sampler '{recipe.sampler.type}' has no setting '{min(unknown)}'")
    changed = with_sampler(recipe, settings=changes, steps=[steps]) if changes else recipe
    return build_component(SAMPLERS, changed.sampler)


def _labels(model: TrainedModel, denoiser: Denoiser, request: SampleRequest) -> Tensor | None:
    """Classes of the samples; None for a denoiser that is not conditioned on labels."""
    if request.label is None:
        return labels_like_data(denoiser, model.dataset, request.count, request.seed)
    if not denoiser.conditioned_on_labels:
        raise UserError(f"'{model.path}' was trained without labels (label_input); leave --label out")
    return requested_labels(request.label, model.dataset, request.count)


def _name(job: Job) -> str:
    """Folder name that distinguishes requests."""
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
    """Under torchrun, give each process of a machine its own GPU; with fewer GPUs, processes share them."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())

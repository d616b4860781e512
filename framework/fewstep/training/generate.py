"""Sampling from and scoring of trained runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fewstep.component import ComponentConfig
from fewstep.data.base import Dataset
from fewstep.denoiser import Denoiser
from fewstep.errors import UserError
from fewstep.metrics.base import METRICS, Metric
from fewstep.metrics.reference import ReferenceMetric
from fewstep.randomness import SampleStreams
from fewstep.samplers.base import SAMPLERS, Sampler
from fewstep.sheets import save_sheet
from fewstep.training.build import TrainedModel, Weights, load_model, usual_steps
from fewstep.training.guide import guide_of
from fewstep.training.labels import condition_on, labels_asked_for, labels_like_data
from fewstep.training.loggers import clock

Progress = Callable[[int, int], None]
"""Called with samples drawn and samples wanted."""


class Narrator:
    """Says on standard error, every few seconds, how far a long job is; short jobs hear nothing of it."""

    def __init__(self, what: str, every: float = 5.0, unit: str = "samples") -> None:
        self.what, self.every, self.unit = what, every, unit
        self.begun = self.said = time.monotonic()

    def __call__(self, done: int, wanted: int) -> None:
        now = time.monotonic()
        if now - self.said >= self.every and done < wanted:
            self.said = now
            left = clock((now - self.begun) / done * (wanted - done))
            print(f"{self.what}: {done}/{wanted} {self.unit}, left {left}", file=sys.stderr, flush=True)


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    count: int,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    labels: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, int | float]:
    """Draw `count` samples in batches, of the classes `labels` (LongTensor [count]) if the denoiser is told them.

    Returns:
        Tokens (LongTensor [count, L], on the CPU), which do not depend on the size of batches, and the network
        evaluations that a sample took on average.
    """
    parts: list[Tensor] = []
    evaluations = 0.0
    for first in range(0, count, batch_size):
        numbers = range(first, min(first + batch_size, count))
        cond = condition_on(None if labels is None else labels[numbers.start : numbers.stop], denoiser.device)
        samples = sampler.sample(denoiser, len(numbers), steps=steps, generator=SampleStreams(seed, numbers), cond=cond)
        parts.append(samples.x.cpu())
        evaluations += samples.nfe * len(numbers)
        if progress is not None:
            progress(numbers.stop, count)
    nfe = round(evaluations / count, 6)
    return torch.cat(parts), int(nfe) if nfe.is_integer() else nfe


def score(
    samples: Tensor, dataset: Dataset, metrics: Sequence[Any], *, labels: Tensor | None = None
) -> dict[str, float]:
    """Values of all `metrics` (configs or names) over the samples, which were asked for by `labels` if by any."""
    values: dict[str, float] = {}
    for config in metrics:
        metric = build_metric(config, dataset)
        metric.update_labelled(samples, labels)
        values.update(metric.compute())
    return values


def build_metric(config: Any, dataset: Dataset) -> Metric:
    """A metric, with its reference model if it has one.

    Raises:
        UserError: the reference cannot be loaded, knows other data, or is of the wrong kind.
    """
    parsed = METRICS.parse(config)
    if not issubclass(METRICS.get(parsed.type).cls, ReferenceMetric):
        return METRICS.build(parsed, dataset=dataset)
    path: str = parsed.reference  # type: ignore[attr-defined]
    model = load_model(path)
    if model.dataset.fingerprint != dataset.fingerprint:
        raise UserError(f"{parsed.type}: the reference '{path}' was trained on other data; train it on these")
    return METRICS.build(parsed, dataset=dataset, reference=model.denoiser)


def sample_run(
    run: str,
    count: int,
    steps: int | None = None,
    seed: int = 0,
    out: str | None = None,
    weights: Weights = "ema",
    temperature: float | None = None,
    top_p: float | None = None,
    guidance: float | None = None,
    label: str | None = None,
) -> Path:
    """Draw samples from a run into a folder: a sheet to look at, the tokens, and how they were made.

    Args:
        label: a class, or "all" for each in turn; None draws them as often as the data have them.

    Raises:
        UserError: no such run or class, or a setting that its sampler or network does not have.
    """
    model = load_model(run, weights=weights)
    settings = {"temperature": temperature, "top_p": top_p, "guidance": guidance}
    changes = {k: v for k, v in settings.items() if v is not None}
    sampler = _sampler(model, changes)
    denoiser = guide_of(sampler, model.dataset)(model.denoiser)
    labels = _labels(model, denoiser, label, count, seed)
    steps = steps or usual_steps(model.recipe)
    marks = {
        "steps": steps,
        "seed": seed,
        "n": count,
        **changes,
        "label": label,
        "raw": "" if weights == "raw" else None,
    }
    name = "-".join(f"{key}{value}" for key, value in marks.items() if value is not None)
    begun = time.monotonic()
    tokens, nfe = draw(
        sampler,
        denoiser,
        count,
        steps=steps,
        seed=seed,
        batch_size=model.recipe.evaluate.batch_size,
        labels=labels,
        progress=Narrator(f"{steps} steps"),
    )
    about = {
        "run": str(model.run.path),
        "step": model.step,
        "weights": weights,
        "sampler": sampler.config.model_dump(mode="json"),
        "samples": count,
        "steps": steps,
        "nfe": nfe,
        "seed": seed,
        "seconds": round(time.monotonic() - begun, 3),
        **({} if labels is None else {"labels": labels.tolist()}),
    }
    return _keep_samples(Path(out) if out else model.run.samples / name, model.dataset, tokens, about)


def _keep_samples(folder: Path, dataset: Dataset, tokens: Tensor, about: dict[str, Any]) -> Path:
    """Write samples in three ways; the path of the sheet."""
    sheet = save_sheet(folder / "samples", dataset, tokens)
    save_file({"tokens": tokens}, folder / "samples.safetensors")
    (folder / "sample.json").write_text(json.dumps(about, indent=2) + "\n")
    return sheet


def _sampler(model: TrainedModel, changes: dict[str, float]) -> Sampler:
    """The recipe's sampler with other settings."""
    config: ComponentConfig = model.recipe.sampler
    if "guidance" in changes and not model.denoiser.told_labels:
        raise UserError(f"run '{model.run.path}' was trained without labels (label_input), by which guidance goes")
    unknown = changes.keys() - type(config).model_fields.keys()
    if unknown:
        raise UserError(f"sampler '{config.type}' has no setting '{min(unknown)}'")
    return SAMPLERS.build({**config.model_dump(), **changes})


def _labels(model: TrainedModel, denoiser: Denoiser, wanted: str | None, count: int, seed: int) -> Tensor | None:
    """The classes to draw samples of, for a model that knows any, or is guided by one that does."""
    if wanted is None:
        return labels_like_data(denoiser, model.dataset, count, seed)
    if not denoiser.told_labels:
        raise UserError(f"run '{model.run.path}' was trained without labels (label_input); leave --label out")
    return labels_asked_for(wanted, model.dataset, count)


def evaluate_run(
    run: str, steps: Sequence[int] | None = None, samples: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Score a run at several numbers of steps; the rows are also kept in the run folder.

    Raises:
        UserError: no such run, or a recipe that names no metrics.
    """
    model = load_model(run)
    section = model.recipe.evaluate
    if not section.metrics:
        raise UserError(f"recipe '{model.recipe.name}' names no metrics; add them under evaluate.metrics")
    model = load_model(run, weights=section.weights, dataset=model.dataset) if section.weights != "ema" else model
    sampler = SAMPLERS.build(model.recipe.sampler)
    denoiser = guide_of(sampler, model.dataset)(model.denoiser)
    rows = []
    for count in steps or section.steps:
        wanted = samples or section.samples
        labels = labels_like_data(denoiser, model.dataset, wanted, seed)
        tokens, nfe = draw(
            sampler,
            denoiser,
            wanted,
            steps=count,
            seed=seed,
            batch_size=section.batch_size,
            labels=labels,
            progress=Narrator(f"{count} steps"),
        )
        values = score(tokens, model.dataset, section.metrics, labels=labels)
        rows.append({"steps": count, "nfe": nfe, "seed": seed, "samples": wanted, "metrics": values})
    _keep(model.run.evaluate / f"step-{model.step:08d}.json", rows)
    return rows


def _keep(file: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a file; those of the same steps, seed and count are replaced."""

    def key(row: dict[str, Any]) -> tuple[int, int, int]:
        return row["steps"], row["seed"], row["samples"]

    old = json.loads(file.read_text()) if file.exists() else []
    merged = {key(row): row for row in [*old, *rows]}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps([merged[k] for k in sorted(merged)], indent=2) + "\n")

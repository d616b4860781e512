"""Sampling from denoisers, and scoring of trained runs.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.denoiser import Denoiser
from fewstep.errors import UserError
from fewstep.hugging_face import PREFIX, load_causal_lm
from fewstep.metrics.base import METRICS, DrawnFrom, Metric, ModelMetric
from fewstep.metrics.reference import ReferenceMetric
from fewstep.objectives.base import OBJECTIVES
from fewstep.progress import Narrator, Progress
from fewstep.randomness import SampleStreams
from fewstep.recipe import with_sampler
from fewstep.samplers.base import SAMPLERS, OnStep, Sampler, Samples
from fewstep.sheets import save_nearest_sheet
from fewstep.training.build import load_model, with_data
from fewstep.training.guide import guide_of
from fewstep.training.labels import condition_on, labels_like_data

_SHEET = 50
"""Samples on the sheet of nearest training images."""


def draw_batch(
    sampler: Sampler,
    denoiser: Denoiser,
    numbers: range,
    *,
    steps: int,
    seed: int,
    labels: Tensor | None = None,
    given: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Samples:
    """Draw the samples of a seed with these numbers, at once.

    Args:
        labels: classes of all samples (LongTensor [N]), if the denoiser is told them.
        given: tokens of all samples that are not drawn (LongTensor [N, L]), -1 where they are.
    """
    here = slice(numbers.start, numbers.stop)
    labels, given = (None if tensor is None else tensor[here] for tensor in (labels, given))
    cond = condition_on(labels, denoiser.device, given)
    streams = SampleStreams(seed, numbers)
    return sampler.sample(denoiser, len(numbers), steps=steps, generator=streams, cond=cond, on_step=on_step)


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    count: int,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    labels: Tensor | None = None,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> tuple[Tensor, int | float]:
    """Draw `count` samples in batches, of the classes `labels` (LongTensor [count]) if the denoiser is told them.

    Args:
        precision: "bf16" runs the network under autocast.

    Returns:
        Tokens (LongTensor [count, L], on the CPU), which do not depend on the size of batches, and the network
        evaluations that a sample took on average.
    """
    parts: list[Tensor] = []
    evaluations = 0.0
    for first in range(0, count, batch_size):
        numbers = range(first, min(first + batch_size, count))
        with torch.autocast(denoiser.device.type, torch.bfloat16, enabled=precision == "bf16"):
            samples = draw_batch(sampler, denoiser, numbers, steps=steps, seed=seed, labels=labels)
        parts.append(samples.x.cpu())
        evaluations += samples.nfe * len(numbers)
        if progress is not None:
            progress(numbers.stop, count)
    return torch.cat(parts), average(evaluations, count)


def average(evaluations: float, count: int) -> int | float:
    """Network evaluations that each of `count` samples took on average."""
    nfe = round(evaluations / count, 6)
    return int(nfe) if nfe.is_integer() else nfe


def score(
    samples: Tensor,
    dataset: Dataset,
    metrics: Sequence[Any],
    *,
    labels: Tensor | None = None,
    drawn_from: Denoiser | None = None,
) -> dict[str, float]:
    """Values of all `metrics` (configs or names) over the samples, which were asked for by `labels` if by any.

    Metrics of models are left out; those `judge` measures.

    Args:
        drawn_from: what drew them, if a model did; metrics that this misleads say so on standard error.
    """
    values: dict[str, float] = {}
    for config in metrics:
        if _of_models(config):
            continue
        metric = build_metric(config, dataset)
        if isinstance(metric, ReferenceMetric) and drawn_from is not None:
            metric.warn_of(drawn_from)
        metric.update_labelled(samples, labels)
        values.update(metric.compute())
    return values


def judge(model: DrawnFrom, dataset: Dataset, metrics: Sequence[Any]) -> dict[str, float]:
    """Values of those `metrics` that judge the model itself; which of them cannot say so on standard error."""
    values: dict[str, float] = {}
    for config in filter(_of_models, metrics):
        metric = build_metric(config, dataset)
        assert isinstance(metric, ModelMetric)
        if reason := metric.refuses(model):
            print(f"note: {metric.config.type} is left out: {reason}", file=sys.stderr, flush=True)
            continue
        metric.look_at(model)
        values.update(metric.compute())
    return values


def _of_models(config: Any) -> bool:
    return METRICS.get(METRICS.parse(config).type).cls.of_models


def build_metric(config: Any, dataset: Dataset) -> Metric:
    """A metric, with its reference model if it has one.

    Raises:
        UserError: the reference cannot be loaded, knows other data, or is of the wrong kind.
    """
    parsed = METRICS.parse(config)
    if not issubclass(METRICS.get(parsed.type).cls, ReferenceMetric):
        return METRICS.build(parsed, dataset=dataset)
    path: str = parsed.reference  # type: ignore[attr-defined]
    if path.startswith(PREFIX):
        reference = load_causal_lm(path, dataset, reads=parsed.reads)  # type: ignore[attr-defined]
        return METRICS.build(parsed, dataset=dataset, reference=reference)
    model = load_model(path)
    if model.dataset.fingerprint != dataset.fingerprint:
        raise UserError(f"{parsed.type}: the reference '{path}' was trained on other data; train it on these")
    return METRICS.build(parsed, dataset=dataset, reference=model.denoiser)


def evaluate_run(
    run: str,
    steps: Sequence[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
) -> list[dict[str, Any]]:
    """Score a run at several numbers of steps; the rows are also kept in the run folder.

    Args:
        sampler: YAML of a sampler in the place of the recipe's.

    Raises:
        UserError: no such run, a recipe that names no metrics, or a sampler that does not fit it.
    """
    model = load_model(run)
    section, objective = model.recipe.evaluate, model.recipe.objective.type
    if not OBJECTIVES.get(objective).cls.roles["student"].draws:
        raise UserError(f"'{run}' draws no samples to score: objective '{objective}' trains no network for that")
    if not section.metrics:
        raise UserError(f"recipe '{model.recipe.name}' names no metrics; add them under evaluate.metrics")
    _check_packages(section.metrics)
    steps, dataset = steps or section.steps, with_data(model)
    config = (model.recipe if sampler is None else with_sampler(model.recipe, sampler, steps=steps)).sampler
    model = load_model(run, weights=section.weights, dataset=dataset) if section.weights != "ema" else model
    built = SAMPLERS.build(config)
    denoiser = guide_of(built, dataset)(model.denoiser)
    wanted, precision = samples or section.samples, section.precision
    labels = labels_like_data(denoiser, dataset, wanted, seed)
    asked = model.recipe.model_copy(update={"sampler": config})
    judged = judge(DrawnFrom(model.denoiser, asked), dataset, section.metrics)
    facts = {"seed": seed, "samples": wanted, "precision": precision, "sampler": config.model_dump(mode="json")}
    how: dict[str, Any] = {"seed": seed, "batch_size": section.batch_size, "labels": labels, "precision": precision}
    rows = []
    for count in steps:
        tokens, nfe = draw(built, denoiser, wanted, steps=count, **how, progress=Narrator(f"{count} steps"))
        values = score(tokens, dataset, section.metrics, labels=labels, drawn_from=denoiser) | judged
        save_nearest_sheet(model.run.evaluate / f"nearest-steps{count}", dataset, tokens[:_SHEET])
        rows.append({"steps": count, "nfe": nfe, **facts, "metrics": values})
    _keep(model.run.evaluate / f"step-{model.step:08d}.json", rows)
    return rows


def _check_packages(metrics: Sequence[Any]) -> None:
    """What metrics need is here; asked before samples are drawn.

    Raises:
        UserError: a package or a file is missing.
    """
    for config in metrics:
        if reason := METRICS.get(config.type).cls.lacking(config):
            raise UserError(f"{config.type}: {reason}")


def _keep(file: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a file; those of the same steps, seed, count, precision and sampler are replaced."""

    def key(row: dict[str, Any]) -> tuple[int, int, int, str, str]:
        # Rows of earlier versions do not say which sampler and precision they are of.
        sampler = json.dumps(row.get("sampler"), sort_keys=True)
        return row["steps"], row["seed"], row["samples"], row.get("precision", "fp32"), sampler

    old = json.loads(file.read_text()) if file.exists() else []
    merged = {key(row): row for row in [*old, *rows]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([merged[k] for k in sorted(merged)], indent=2) + "\n")

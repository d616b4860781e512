"""Sampling from denoisers, and scoring of trained models.

Rows are kept beside each model, by what their values depend on. A row that is there is not measured again; of one that
other metrics scored, the same samples are drawn again for those that are missing.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.compiled import compile_trunks
from fewstep.evaluation.request import EvaluationRequest
from fewstep.evaluation.rows import EvaluatedRow, ScoredBy, store_rows
from fewstep.evaluation.score import judge, score
from fewstep.evaluation.target import Target, find_source, find_target, is_of_models
from fewstep.evaluation.tracked import track_rows
from fewstep.metrics.base import DrawnFrom
from fewstep.runs.environment import Environment, describe_environment
from fewstep.runs.models import build_component
from fewstep.runtime.lock import held
from fewstep.runtime.progress import Narrator
from fewstep.samplers.base import SAMPLERS, Sampler
from fewstep.sampling.draw import Drawn, draw
from fewstep.sampling.labels import labels_like_data
from fewstep.sampling.sheets import save_nearest_sheet, save_sheet

SHEET_SAMPLES = 50
"""Number of samples on a sheet."""


@dataclass(frozen=True)
class Evaluation:
    """A model and its rows, one for each number of steps; each row has the values of the requested metrics only.

    `dataset` is the model's, if something was measured.
    """

    target: Target
    rows: tuple[EvaluatedRow, ...]
    dataset: Dataset | None = None


def evaluate_run(
    run: str,
    steps: Sequence[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
    *,
    metrics: str | None = None,
    weights: Literal["ema", "raw"] | None = None,
    device: str = "auto",
    batch_size: int | None = None,
) -> list[dict[str, Any]]:
    """Score one model at several numbers of steps; see `evaluate_models` and `EvaluationRequest`.

    Returns:
        Conditions, cost and values of each row.
    """
    counts = None if steps is None else tuple(steps)
    request = EvaluationRequest(counts, samples, seed, sampler, metrics, weights, device, batch_size)
    (evaluation,) = evaluate_models([run], request)
    return [row.public() for row in evaluation.rows]


def evaluate_models(names: Sequence[str], request: EvaluationRequest) -> list[Evaluation]:
    """Score models. Rows that are kept already are not measured again.

    Args:
        names: runs, exported folders or files, or OWNER/NAME on the Hugging Face Hub.

    Raises:
        UserError: no such model, a model without its data, or metrics, sampler or device that it cannot have. Nothing
            was drawn then, for any of the models.
        OperationError: another process evaluates a model, or a file of rows is damaged.
    """
    sources = {name: find_source(name, request.weights) for name in names}
    return evaluate_targets([find_target(name, source, request) for name, source in sources.items()])


def evaluate_targets(targets: Sequence[Target]) -> list[Evaluation]:
    """Score models that are found and checked; see `evaluate_models`."""
    datasets: dict[str, Dataset] = {}
    opened: dict[str, Dataset] = {}
    for target in targets:
        if any(target.unscored(steps) for steps in target.steps):
            settings = target.recipe.data.model_dump_json()
            shared = datasets.get(settings) if target.source.exported is None else None
            opened[target.name] = datasets[settings] = shared or target.source.training_data()
    environment = describe_environment() if opened else None
    return [_evaluate(target, opened.get(target.name), environment, len(targets) > 1) for target in targets]


def _evaluate(target: Target, dataset: Dataset | None, environment: Environment | None, several: bool) -> Evaluation:
    rows = {}
    if dataset is not None and environment is not None:
        with held(target.folder, "evaluation", if_writable=True):
            for steps, row in _measured(target, dataset, environment, f"{target.name}, " if several else ""):
                rows[steps] = row
            store_rows(target.file, rows.values())
        track_rows(target, list(rows.values()))
    for steps in target.steps:
        if steps not in rows:
            rows[steps] = target.stored[target.row_key(steps)]
    return Evaluation(target, tuple(rows[steps].of_metrics(target.metric_keys) for steps in target.steps), dataset)


def _measured(
    target: Target, dataset: Dataset, environment: Environment, prefix: str
) -> Iterator[tuple[int, EvaluatedRow]]:
    """Numbers of steps with rows that lack a metric, and those rows, complete."""
    network = target.source.build(dataset, target.device).denoiser
    sampler = build_component(SAMPLERS, target.recipe.sampler)
    denoiser = sampler.guide(network, dataset)
    compile_trunks(denoiser, target.recipe.evaluate.compile, denoiser.device, "the network", print, graphs=True)
    labels = labels_like_data(denoiser, dataset, target.samples, target.seed)
    asked = {i for steps in target.steps for i in target.unscored(steps) if is_of_models(target.metrics[i])}
    model = DrawnFrom(network, target.recipe)
    of_model = {i: _scored(target, i, judge(model, dataset, [target.metrics[i]])) for i in sorted(asked)}
    for steps in target.steps:
        if missing := target.unscored(steps):
            row = target.stored.get(target.row_key(steps))
            of_samples = [i for i in missing if i not in of_model]
            scores = {i: of_model[i] for i in missing if i in of_model}
            if row is None or of_samples:
                drawn = _drawn(target, sampler, denoiser, steps, labels, prefix)
                row = row or _row(target, steps, drawn, dataset, environment)
                for i in of_samples:
                    values = score(drawn.tokens, dataset, [target.metrics[i]], labels=labels, drawn_from=denoiser)
                    scores[i] = _scored(target, i, values)
            yield steps, row.with_scores(scores[i] for i in missing)


def _scored(target: Target, index: int, values: dict[str, float]) -> ScoredBy:
    settings = target.metrics[index].model_dump(mode="json")
    return ScoredBy(key=target.metric_keys[index], metric=settings, values=values)


def _drawn(
    target: Target, sampler: Sampler, denoiser: Denoiser, steps: int, labels: Tensor | None, prefix: str
) -> Drawn:
    return draw(
        sampler,
        denoiser,
        target.samples,
        steps=steps,
        seed=target.seed,
        batch_size=target.batch_size,
        labels=labels,
        precision=target.recipe.evaluate.precision,
        progress=Narrator(f"{prefix}{steps} steps"),
    )


def _row(target: Target, steps: int, drawn: Drawn, dataset: Dataset, environment: Environment) -> EvaluatedRow:
    """A row without values, with its sheets of samples."""
    key = target.row_key(steps)
    assert drawn.nfe is not None
    return EvaluatedRow(
        steps=steps,
        nfe=drawn.nfe,
        passes=drawn.passes,
        seed=target.seed,
        samples=target.samples,
        precision=target.recipe.evaluate.precision,
        sampler=target.recipe.sampler.model_dump(mode="json"),
        weights=target.source.weights,
        metrics={},
        key=key,
        data=dataset.fingerprint,
        model=target.source.digest,
        hardware=environment["hardware"],
        commit=environment["commit"],
        sheet=_sheet(target, steps, key, dataset, drawn.tokens[:SHEET_SAMPLES]),
    )


def _sheet(target: Target, steps: int, key: str, dataset: Dataset, tokens: Tensor) -> str | None:
    """Write the first samples, for images also above their nearest training images.

    Returns:
        Name of the sheet; None where nothing can be written.
    """
    try:
        save_nearest_sheet(target.folder / f"nearest-steps{steps}", dataset, tokens)
        return save_sheet(target.folder / f"samples-steps{steps}-{key[:8]}", dataset, tokens).name
    except OSError:
        return None  # `store_rows` warns that the folder cannot be written

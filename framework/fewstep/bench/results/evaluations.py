"""Results made of the evaluations of models, without a suite: for comparisons and leaderboards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fewstep.bench.results.results import CaseResult, Results, Row, SuiteInfo
from fewstep.bench.results.summary import summarise
from fewstep.bench.running.rows import train_seconds
from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean
from fewstep.evaluation.rows import EvaluatedRow, load_rows
from fewstep.evaluation.target import find_source
from fewstep.metrics.base import METRICS, Metric
from fewstep.runs.environment import describe_environment, training_commit
from fewstep.runs.models import ModelSource
from fewstep.runtime.hashing import digest_of

_VARIETY = (
    *("gen_entropy", "sample_entropy", "class_entropy", "recall", "coverage", "classes_covered"),
    *("distinct_2", "self_bleu"),
)
"""Values that say how varied samples are, the first ones first; for the plot of quality by diversity."""


@dataclass(frozen=True)
class Measured:
    """A model with rows of evaluations, and its name in tables."""

    name: str
    source: ModelSource
    rows: tuple[EvaluatedRow, ...]


def results_of(
    models: Sequence[Measured],
    *,
    name: str,
    title: str,
    command: str,
    headline: str | None = None,
    diversity: str | None = None,
    sheets: Mapping[str, str] | None = None,
) -> Results:
    """Results with a case for each model.

    Args:
        models: at least one, with rows of the same data and the same number of samples.
        headline: value of the plot; the first one that is better lower or higher if left out.
        diversity: value of the second plot; a known one if left out, or none.
        sheets: sheets of samples by the keys of rows, below the folder of the results.

    Raises:
        UserError: no value has that name, or none has a better direction.
    """
    metrics = [METRICS.get(kind).cls for kind in _in_order(models)]
    present = {value for model in models for row in model.rows for value in row.metrics}
    directions = {value: way for metric in metrics for value, way in metric.directions.items() if value in present}
    beside = {value: other for metric in metrics for value, other in metric.beside.items() if value in present}
    headline = check_value(headline, metrics)
    diversity = check_diversity(diversity, headline, list(directions), beside)
    rows = [_row(model, row, sheets or {}) for model in models for row in _comparable(model.rows)]
    if any(diversity not in row.values for row in rows):
        diversity = None
    first = models[0].rows[0]
    hardware = dict.fromkeys(row.hardware for model in models for row in model.rows if row.hardware)
    environment: dict[str, Any] = {**describe_environment()}
    return Results(
        suite=SuiteInfo(
            name=name,
            title=title,
            digest=digest_of([row.key for model in models for row in model.rows]),
            quick=False,
            seeds=tuple(sorted({row.seed for row in rows})),
            samples=first.samples,
            command=command,
            data=first.data,
        ),
        complete=True,
        environment={**environment, "hardware": "; ".join(hardware) or environment["hardware"]},
        commit=first.commit,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        headline=headline,
        diversity=diversity,
        direction="higher" if directions.get(headline) == "higher" else "lower",
        directions=directions,
        beside=beside,
        cases=tuple(_case(model, models) for model in models),
        rows=tuple(rows),
        summary=tuple(summarise(rows)),
        claims=(),
        failures=(),
    )


def stored_results(name: str, samples: int | None = None) -> Results:
    """Results of the evaluations that are kept beside a model, of its present weights; nothing is drawn.

    Each sampler that the model was evaluated with is a case.

    Args:
        name: a run, an exported folder or file, or OWNER/NAME on the Hub.
        samples: take the rows of so many samples if there are any, else those of the largest number.

    Raises:
        UserError: there is no such model, or no evaluation of it.
    """
    source = find_source(name)
    known = load_rows(source.run.evaluate / f"step-{source.step:08d}.json")
    rows = [row for row in known if row.key and row.model == source.digest]
    if not rows:
        raise UserError(f"'{name}' has no evaluation of its weights; measure one with `fewstep evaluate {name}`")
    counts = {row.samples for row in rows}
    count = samples if samples in counts else max(counts)
    by_sampler: dict[str, list[EvaluatedRow]] = {}
    for row in rows:
        if row.samples == count:
            by_sampler.setdefault(_label(source, row), []).append(row)
    models = [Measured(label, source, tuple(same)) for label, same in by_sampler.items()]
    return results_of(models, name=source.recipe.name, title=source.recipe.name, command=f"fewstep evaluate {name}")


def _label(source: ModelSource, row: EvaluatedRow) -> str:
    """Name of a model, with whatever differs from its recipe."""
    usual = source.recipe.sampler.model_dump(mode="json")
    sampler = row.sampler or usual
    changed = [f"{key} {value}" for key, value in sampler.items() if key != "type" and usual.get(key) != value]
    parts = [] if sampler == usual else [str(sampler["type"]), *(changed if sampler["type"] == usual["type"] else [])]
    parts += [] if row.weights == source.recipe.evaluate.weights else [f"{row.weights} weights"]
    parts += [] if row.precision == source.recipe.evaluate.precision else [row.precision]
    return f"{source.recipe.name}, {', '.join(parts)}" if parts else source.recipe.name


def check_value(value: str | None, metrics: Sequence[type[Metric]]) -> str:
    """The value to compare by: the named one, or the first of samples that is better lower or higher.

    Raises:
        UserError: no value has that name, or none has a better direction.
    """
    ways = {name: way for metric in metrics if not metric.of_models for name, way in metric.directions.items()}
    judged = [name for name, way in ways.items() if way != "info"]
    if not judged:
        known = ", ".join(ways) or "none"
        raise UserError(f"neither high nor low is better for any of the values ({known}); add one that judges samples")
    if value is None:
        return judged[0]
    if value not in judged:
        hint = did_you_mean(value, judged) or ";"
        raise UserError(
            f"--value: no value of samples with a better direction is named '{value}'{hint} known: {', '.join(judged)}"
        )
    return value


def check_diversity(value: str | None, headline: str, known: Sequence[str], beside: Mapping[str, str]) -> str | None:
    """The value of the second plot: the named one, the one beside the headline, or a known one of variety.

    Raises:
        UserError: no value has that name.
    """
    if value is not None and value not in known:
        hint = did_you_mean(value, known) or ";"
        raise UserError(f"--diversity: no value named '{value}'{hint} known: {', '.join(known)}")
    usual = (name for name in _VARIETY if name in known and name != headline)
    return value or beside.get(headline) or next(usual, None)


def has_variety(metrics: Sequence[type[Metric]]) -> bool:
    """Whether some metric says how varied samples are."""
    return any(name in _VARIETY or name in metric.beside for metric in metrics for name in metric.directions)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _in_order(models: Sequence[Measured]) -> list[str]:
    """Types of metrics, in the order in which they score."""
    return list(dict.fromkeys(entry.metric["type"] for model in models for row in model.rows for entry in row.scored))


def _comparable(rows: Sequence[EvaluatedRow]) -> list[EvaluatedRow]:
    """Rows of each number of steps with the finite values that all their seeds have."""
    shared: dict[int, set[str]] = {}
    for row in rows:
        finite = {name for name, value in row.metrics.items() if math.isfinite(value)}
        shared[row.steps] = shared.get(row.steps, finite) & finite
    return [
        row.model_copy(update={"metrics": {name: v for name, v in row.metrics.items() if name in shared[row.steps]}})
        for row in rows
    ]


def _row(model: Measured, row: EvaluatedRow, sheets: Mapping[str, str]) -> Row:
    return Row(
        key=row.key,
        case=model.name,
        steps=row.steps,
        nfe=row.nfe,
        passes=row.passes,
        seed=row.seed,
        samples=row.samples,
        seconds=0.0,
        sampler=row.sampler,
        values=row.metrics,
        sheet=sheets.get(row.key),
        commit=row.commit,
    )


def _case(model: Measured, models: Sequence[Measured]) -> CaseResult:
    source, recipe = model.source, model.source.recipe
    lines = source.run.log_lines() if source.exported is None else []
    teacher = recipe.teacher.run if recipe.teacher else None
    names = {other.source.path.resolve(): other.name for other in models}
    return CaseResult(
        name=model.name,
        label=model.name,
        recipe=recipe.name,
        set=(),
        digest=source.digest,
        teacher=names.get(Path(teacher).resolve()) if teacher else None,
        oracle=False,
        parameters=sum(tensor.numel() for tensor in source.state.values()),
        train_steps=source.step,
        train_seconds=train_seconds(source.run) if lines else None,
        run=str(source.path),
        commit=training_commit(source.run.environment),
        logged={key: value for key, value in (lines or [{}])[-1].items() if _is_finite(value)},
        resolved=recipe.model_dump(mode="json"),
    )

"""`fewstep compare`: models evaluated under the same conditions, and put side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fewstep.bench.report.side_by_side import write_side_by_side
from fewstep.bench.results.evaluations import Measured, check_diversity, check_value, has_variety, results_of
from fewstep.bench.results.results import Results
from fewstep.bench.running.rows import real_samples
from fewstep.core.component import ComponentConfig
from fewstep.core.errors import FewstepError, OperationError, UserError
from fewstep.evaluation.evaluate import SHEET_SAMPLES, Evaluation, evaluate_targets
from fewstep.evaluation.request import EvaluationRequest
from fewstep.evaluation.rows import EvaluatedRow
from fewstep.evaluation.target import Target, find_source, find_target
from fewstep.metrics.base import METRICS
from fewstep.runs.models import ModelSource
from fewstep.sampling.sheets import save_sheet

_VARIETY = "sample_entropy"
"""Metric that is added if none of those of the recipes says how varied samples are."""
_LONGEST = 60
"""Characters of the folder that is chosen if none is named."""


def compare_models(
    names: Sequence[str],
    request: EvaluationRequest,
    *,
    out: str | None = None,
    value: str | None = None,
    diversity: str | None = None,
    command: str = "",
) -> tuple[Results, Path]:
    """Evaluate what is missing, and write tables, plots, samples and one page.

    Args:
        names: two models or more.
        request: conditions of all of them. Metrics and samples that it leaves out are those of all recipes together,
            and the largest number.
        out: folder to write; `results/compare-NAMES` if left out.
        value: value of the plot; the first that is better lower or higher if left out.
        diversity: value of the second plot.
        command: command line of this call, for the page.

    Returns:
        The results and the page.

    Raises:
        UserError: fewer than two models, or models of different data; see `evaluate_models` for the others. Nothing
            was drawn then.
        OperationError: the value of the plot is not finite.
    """
    sources = {name: find_source(name, request.weights) for name in names}
    if len(sources) < 2:
        raise UserError("compare needs two different models or more; `fewstep evaluate` scores one")
    _check_data(sources)
    if request.metrics is None:
        request = replace(request, metrics=_all_metrics(sources))
    samples = request.samples or max(source.recipe.evaluate.samples for source in sources.values())
    request = replace(request, samples=samples)
    targets = [find_target(name, source, request) for name, source in sources.items()]
    headline = check_value(value, [METRICS.get(metric.type).cls for metric in targets[0].metrics])
    ways = {name for metric in targets[0].metrics for name in METRICS.get(metric.type).cls.directions}
    check_diversity(diversity, headline, sorted(ways), {})
    evaluations = evaluate_targets(targets)
    _check_same({evaluation.target.name: evaluation.rows[0].data for evaluation in evaluations})
    labels = short_names(sources)
    joined = "-".join(source.recipe.name for source in sources.values())
    folder = Path(out) if out else Path("results") / f"compare-{joined}"[:_LONGEST]
    models = [Measured(labels[e.target.name], e.target.source, _all_seeds(e)) for e in evaluations]
    results = results_of(
        models,
        name=folder.name,
        title=_title(list(labels.values())),
        command=command,
        headline=headline,
        diversity=diversity,
        sheets=_copy_sheets(evaluations, folder / "samples"),
    )
    for summary in results.summary:
        if headline not in summary.values:
            raise OperationError(
                f"{headline} of {summary.case} at {summary.steps} steps is no number; choose another value with "
                "--value, or more samples with --samples"
            )
    logs = {labels[name]: source.run.log_lines() for name, source in sources.items() if source.exported is None}
    return results, write_side_by_side(results, logs, folder, real=_real_sheet(evaluations, folder / "samples"))


def short_names(sources: Mapping[str, ModelSource]) -> dict[str, str]:
    """A name for each model: that of its recipe, with its folder where several have the same recipe's."""
    recipes = [source.recipe.name for source in sources.values()]
    places = [source.path.name for source in sources.values()]

    def short(name: str, source: ModelSource) -> str:
        if recipes.count(source.recipe.name) == 1:
            return source.recipe.name
        return f"{source.recipe.name} ({source.path.name if places.count(source.path.name) == 1 else name})"

    return {name: short(name, source) for name, source in sources.items()}


def _title(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}, compared"


def _all_metrics(sources: Mapping[str, ModelSource]) -> str | None:
    """The metrics of all recipes as YAML, with one of variety if there is none; None if no recipe names any."""
    metrics: dict[str, ComponentConfig] = {}
    for source in sources.values():
        metrics |= {metric.model_dump_json(): metric for metric in source.recipe.evaluate.metrics}
    if not metrics:
        return None
    listed = [metric.model_dump(mode="json") for metric in metrics.values()]
    if not has_variety([METRICS.get(metric.type).cls for metric in metrics.values()]):
        listed.append({"type": _VARIETY})
    return json.dumps(listed)


def _check_data(sources: Mapping[str, ModelSource]) -> None:
    """Check that the models are of the same data, by what their runs and exports say of them."""
    _check_same({name: source.recipe.data.type for name, source in sources.items()})
    prints = {name: source.data_fingerprint for name, source in sources.items()}
    _check_same({name: digest for name, digest in prints.items() if digest})


def _check_same(data: Mapping[str, str]) -> None:
    groups: dict[str, list[str]] = {}
    for name, kind in data.items():
        groups.setdefault(kind[:12], []).append(name)
    if len(groups) > 1:
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in groups.items())
        raise UserError(f"these models are of different data, whose values do not compare ({listed})")


def _all_seeds(evaluation: Evaluation) -> tuple[EvaluatedRow, ...]:
    """The evaluation's rows, and those of other seeds that earlier evaluations kept."""
    target, rows = evaluation.target, {row.key: row for row in evaluation.rows}
    for row in target.stored.values():
        other: Target = replace(target, seed=row.seed)
        scored = all(row.values_by(key) is not None for key in target.metric_keys)
        if row.steps in target.steps and scored and other.row_key(row.steps) == row.key:
            rows.setdefault(row.key, row.of_metrics(target.metric_keys))
    return tuple(rows.values())


def _real_sheet(evaluations: Sequence[Evaluation], folder: Path) -> Path | None:
    """A sheet of real samples; None where nothing was measured and the data are not here any more."""
    try:
        first = evaluations[0].target.source
        dataset = next((e.dataset for e in evaluations if e.dataset is not None), None) or first.training_data()
    except FewstepError:
        return None
    tokens, _ = real_samples(dataset, SHEET_SAMPLES, seed=0)
    return save_sheet(folder / "real", dataset, tokens)


def _copy_sheets(evaluations: Sequence[Evaluation], folder: Path) -> dict[str, str]:
    """Copies of the models' sheets; places by the keys of rows, below the parent of `folder`."""
    places: dict[str, str] = {}
    for number, evaluation in enumerate(evaluations, start=1):
        for row in evaluation.rows:
            source = evaluation.target.folder / row.sheet if row.sheet else None
            if source and source.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                copy = folder / f"{number}-steps{row.steps}{source.suffix}"
                shutil.copyfile(source, copy)
                places[row.key] = f"{folder.name}/{copy.name}"
    return places

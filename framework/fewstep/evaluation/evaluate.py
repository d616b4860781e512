"""Sampling from denoisers, and scoring of trained runs.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import OperationError, UserError
from fewstep.core.places import unlinked
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoisers.compiled import compile_trunks
from fewstep.evaluation.score import judge, score
from fewstep.metrics.base import DrawnFrom, MetricConfig, ToScore
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import with_sampler
from fewstep.runs.models import build_component, open_model, with_data
from fewstep.runtime.files import read_json, rewrite
from fewstep.runtime.lock import held
from fewstep.runtime.progress import Narrator
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.draw import draw
from fewstep.sampling.labels import labels_like_data
from fewstep.sampling.sheets import save_nearest_sheet

_SHEET = 50
"""Number of samples on the sheet of nearest training images."""


def evaluate_run(
    run: str,
    steps: Sequence[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
) -> list[dict[str, Any]]:
    """Score a run at several numbers of steps; the rows are also written into the run folder.

    Args:
        sampler: YAML of a sampler that replaces the recipe's.

    Raises:
        UserError: no such run, a recipe that names no metrics, or a sampler that does not fit it.
        OperationError: another process evaluates the run.
    """
    model = open_model(run)
    section, objective = model.recipe.evaluate, model.recipe.objective.type
    if not OBJECTIVES.get(objective).cls.roles["student"].network.draws:
        raise UserError(f"'{run}' draws no samples to score: objective '{objective}' trains no network for that")
    if not section.metrics:
        raise UserError(f"recipe '{model.recipe.name}' names no metrics; add them under evaluate.metrics")
    _check_here(section.metrics, DATASETS.get(model.recipe.data.type).cls)
    steps, dataset = steps or section.steps, with_data(model)
    config = (model.recipe if sampler is None else with_sampler(model.recipe, sampler, steps=steps)).sampler
    model = open_model(run, weights=section.weights, dataset=dataset) if section.weights != "ema" else model
    component = build_component(SAMPLERS, config)
    denoiser = component.guide(model.denoiser, dataset)
    compile_trunks(denoiser, section.compile, denoiser.device, "the network", print, graphs=True)
    number, precision = samples or section.samples, section.precision
    labels = labels_like_data(denoiser, dataset, number, seed)
    recipe = model.recipe.model_copy(update={"sampler": config})
    model_values = judge(DrawnFrom(model.denoiser, recipe), dataset, section.metrics)
    facts = {"seed": seed, "samples": number, "precision": precision, "sampler": config.model_dump(mode="json")}
    options: dict[str, Any] = {"seed": seed, "batch_size": section.batch_size, "labels": labels, "precision": precision}
    rows, folder = [], unlinked(model.run.evaluate)
    with held(folder, "evaluation", if_writable=True):
        for count in steps:
            drawn = draw(component, denoiser, number, steps=count, **options, progress=Narrator(f"{count} steps"))
            values = score(drawn.tokens, dataset, section.metrics, labels=labels, drawn_from=denoiser) | model_values
            save_nearest_sheet(folder / f"nearest-steps{count}", dataset, drawn.tokens[:_SHEET])
            cost = {"steps": count, "nfe": drawn.nfe, "passes": drawn.passes}
            rows.append({**cost, **facts, "metrics": values})
        _store(folder / f"step-{model.step:08d}.json", rows)
    return rows


def _check_here(metrics: Sequence[ComponentConfig], data: type[Dataset]) -> None:
    """Check, before samples are drawn, that packages and files of the metrics are present.

    Raises:
        UserError: a package or a file is missing.
    """
    for config in metrics:
        assert isinstance(config, MetricConfig)
        if reason := config.refuses(ToScore(data, here=True)):
            raise UserError(f"{config.type}: {reason}")


def _store(file: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a file; they replace rows of the same steps, seed, count, precision and sampler."""

    def key(row: dict[str, Any]) -> tuple[int, int, int, str, str]:
        # Rows of earlier versions have no sampler and precision.
        sampler = json.dumps(row.get("sampler"), sort_keys=True)
        return row["steps"], row["seed"], row["samples"], row.get("precision", "fp32"), sampler

    old = read_json(file, "delete it to evaluate anew") if file.exists() else []
    try:
        merged = {key(row): row for row in [*old, *rows]}
    except (KeyError, TypeError, AttributeError):
        raise OperationError(f"'{file}' is damaged; delete it to evaluate anew") from None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        rewrite(file, json.dumps([merged[k] for k in sorted(merged)], indent=2) + "\n")
    except OSError as error:
        print(f"warning: '{file}' cannot be written ({error.strerror}); values are shown only", file=sys.stderr)

"""A model that is about to be evaluated: checked, with every condition decided, and not built yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.places import unlinked
from fewstep.core.references import replace_references
from fewstep.data.base import DATASETS, Dataset
from fewstep.evaluation.request import EvaluationRequest
from fewstep.evaluation.rows import EvaluatedRow, load_rows
from fewstep.metrics.base import METRICS, MetricConfig, ToScore
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import with_metrics, with_sampler
from fewstep.recipe.models import Recipe
from fewstep.runs.code import code_digest, plugin_versions
from fewstep.runs.contents import contents_digest, file_facts, reference_digests
from fewstep.runs.local import find_named
from fewstep.runs.models import ModelSource, Weights
from fewstep.runtime.hashing import digest_of
from fewstep.trackers.base import refuse_missing

_MODEL = ("data", "process", "backbone", "noise_input", "step_input", "objective")
"""Sections of a recipe on which samples depend, beside the sampler."""


@dataclass(frozen=True)
class Target:
    """A model, and the conditions of its evaluation."""

    name: str
    """As the person named it."""
    source: ModelSource
    recipe: Recipe
    """Its recipe, with the sampler and the metrics of this evaluation."""
    steps: tuple[int, ...]
    samples: int
    seed: int
    device: str
    batch_size: int
    track: bool = False
    """Whether trackers that send values elsewhere get new ones."""

    @property
    def metrics(self) -> Sequence[ComponentConfig]:
        return self.recipe.evaluate.metrics

    @property
    def folder(self) -> Path:
        """Folder of its rows and sheets."""
        return unlinked(self.source.run.evaluate)

    @property
    def file(self) -> Path:
        """File of its rows."""
        return self.folder / f"step-{self.source.step:08d}.json"

    @cached_property
    def metric_keys(self) -> list[str]:
        """A digest for each metric: of its settings, and of the models and files that they name."""
        return [_metric_key(config) for config in self.metrics]

    def row_key(self, steps: int) -> str:
        """Digest of everything that the samples at this number of steps depend on."""
        return digest_of({**self._conditions, "steps": steps})

    @cached_property
    def _conditions(self) -> dict[str, Any]:
        recipe, section = self.recipe, self.recipe.evaluate
        return {
            "model": recipe.model_dump(mode="json", include=set(_MODEL)),
            "files": file_facts(recipe.data),
            "sampler": recipe.sampler.model_dump(mode="json"),
            "asked": reference_digests(recipe.sampler),
            "digest": self.source.digest,
            "weights": self.source.weights,
            "samples": self.samples,
            "seed": self.seed,
            "precision": section.precision,
            "compile": section.compile,
            "device": self.source.device(self.device).type,
            "code": code_digest(),
            "plugins": plugin_versions(recipe.plugins),
        }

    @cached_property
    def stored(self) -> dict[str, EvaluatedRow]:
        """Rows that earlier evaluations kept, by key."""
        return {row.key: row for row in load_rows(self.file) if row.key}

    def unscored(self, steps: int) -> list[int]:
        """Indices of the metrics that have not scored the samples at this number of steps."""
        row = self.stored.get(self.row_key(steps))
        return [i for i, key in enumerate(self.metric_keys) if row is None or row.values_by(key) is None]


def find_source(name: str, weights: Weights | None = None) -> ModelSource:
    """Find a model and read it, without building it.

    Args:
        name: a run, an exported folder or file, a shipped model, or OWNER/NAME on the Hugging Face Hub.
        weights: averaged or raw ones; None takes those that its recipe evaluates.

    Raises:
        UserError: no such model, or one that draws no samples.
    """
    source = find_named(name, weights or "ema")
    if weights is None and source.recipe.evaluate.weights != source.weights:
        source = find_named(name, source.recipe.evaluate.weights)
    objective = source.recipe.objective.type
    if not OBJECTIVES.get(objective).cls.roles["student"].network.draws:
        raise UserError(f"'{name}' draws no samples to score: objective '{objective}' trains no network for that")
    return source


def find_target(name: str, source: ModelSource, request: EvaluationRequest) -> Target:
    """Check a request for a model, before anything is drawn.

    Raises:
        UserError: no metrics, one whose package or file is missing, no such device, or a tracker without its package.
        RecipeError: a sampler or a metric that is unknown or does not fit the model.
    """
    recipe = source.recipe
    steps = request.steps or recipe.evaluate.steps
    if request.metrics is not None:
        recipe = with_metrics(recipe, request.metrics)
    if not recipe.evaluate.metrics:
        raise UserError(
            f"recipe '{recipe.name}' names no metrics; add them under evaluate.metrics, or name some with --metrics"
        )
    _check_here(recipe.evaluate.metrics, DATASETS.get(recipe.data.type).cls)
    if request.sampler is not None:
        recipe = with_sampler(recipe, request.sampler, steps=steps)
    source.device(request.device, "--device")
    if request.track:
        refuse_missing(source.recipe.trackers)
    section = recipe.evaluate
    return Target(
        name=name,
        source=source,
        recipe=recipe,
        steps=tuple(dict.fromkeys(steps)),
        samples=request.samples or section.samples,
        seed=request.seed,
        device=request.device,
        batch_size=request.batch_size or section.batch_size,
        track=request.track,
    )


def _check_here(metrics: Sequence[ComponentConfig], data: type[Dataset]) -> None:
    """Check that packages and files of the metrics are present.

    Raises:
        UserError: a package or a file is missing.
    """
    for config in metrics:
        assert isinstance(config, MetricConfig)
        if reason := config.refuses(ToScore(data, here=True)):
            raise UserError(f"{config.type}: {reason}")


def _metric_key(config: ComponentConfig) -> str:
    named = replace_references(config, lambda entry: contents_digest(entry.value) or entry.value)
    return digest_of({**named.model_dump(mode="json"), "files": file_facts(config)})


def is_of_models(config: ComponentConfig) -> bool:
    """Whether a metric measures the model and no samples."""
    return METRICS.get(config.type).cls.of_models

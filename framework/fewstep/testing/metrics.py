"""Conformance of metrics: declared values, independence of the batch size, and refusal of unsuited data."""

from __future__ import annotations

import math
from typing import Any

import torch

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.component import ComponentConfig
from fewstep.core.registry import Raw
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.metrics.base import METRICS, DrawnFrom, MetricConfig, ModelMetric, ToScore
from fewstep.metrics.reference import ReferenceMetric
from fewstep.processes.base import PROCESSES
from fewstep.recipe.models import Recipe
from fewstep.runs.models import build_component


def check_metric(config: Raw, *, data: Raw | None = None) -> None:
    """Assert that a metric keeps the contract of `Metric`.

    Args:
        data: dataset to score; by default the first of `markov`, `digits`, `coins` that suits it.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    metric_type = METRICS.get(METRICS.parse(config).type).cls
    name = DATASETS.parse(data).type if data else suited_data(METRICS.parse(config))
    dataset = build_component(DATASETS, data or {"type": name, **({"size": 512} if name == "markov" else {})})
    samples = dataset.train[:96].long()

    runtime: dict[str, Any] = {"dataset": dataset}
    if issubclass(metric_type, ReferenceMetric):
        runtime["reference"] = _untrained_reference(dataset)
    whole, parts = METRICS.build(config, **runtime), METRICS.build(config, **runtime)
    if isinstance(whole, ModelMetric):
        assert isinstance(parts, ModelMetric)
        model = _untrained_model(name, dataset)
        reason = whole.config.refuses(ToScore(type(dataset), model=model))
        assert reason is None, f"cannot judge a plain model: {reason}"
        for metric in (whole, parts):
            metric.look_at(model)
    labels = None if dataset.labels is None else dataset.labels[:96]
    whole.update_labelled(samples, labels)
    for first in range(0, len(samples), 41):
        own = None if labels is None else labels[first : first + 41]
        parts.update_labelled(samples[first : first + 41], own)
    values, again = whole.compute(), parts.compute()
    assert values.keys() == metric_type.directions.keys(), (
        f"returns {sorted(values)}, declares {sorted(metric_type.directions)}"
    )
    assert set(metric_type.directions.values()) <= {"lower", "higher", "info"}
    names = {*metric_type.beside.keys(), *metric_type.beside.values()}
    assert names <= values.keys(), f"`beside` names {sorted(names - values.keys())}, which it does not return"
    for key, value in values.items():
        assert isinstance(value, float) and math.isfinite(value), f"{key} is {value!r} on training data"  # noqa: PT018
        assert math.isclose(value, again[key], rel_tol=1e-6, abs_tol=1e-9), f"{key} depends on the size of batches"
    assert torch.equal(samples, dataset.train[:96].long()), "a metric must not change its samples"


def _untrained_reference(dataset: Dataset) -> NetworkDenoiser:
    """An autoregressive model of the right shape."""
    spec = dataset.spec
    process = PROCESSES.build("masked", vocab_size=spec.vocab_size)
    config = {"type": "block_transformer", "width": 16, "depth": 1, "heads": 2, "block_size": 1}
    tokens = TokenSpace(process.num_states, spec.vocab_size, spec.length)
    return NetworkDenoiser(BACKBONES.build(config, tokens=tokens), process)


def _untrained_model(data: str, dataset: Dataset) -> DrawnFrom:
    """A masked model of whole samples of the data."""
    raw = {"type": "transformer", "width": 16, "depth": 1, "heads": 2}
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "data": data,
            "process": "masked",
            "backbone": raw,
            "objective": "denoising",
            "train": {"steps": 1},
        }
    )
    process = PROCESSES.build(recipe.process, vocab_size=dataset.spec.vocab_size)
    tokens = TokenSpace(process.num_states, dataset.spec.vocab_size, dataset.spec.length)
    return DrawnFrom(NetworkDenoiser(BACKBONES.build(recipe.backbone, tokens=tokens), process), recipe)


def suited_data(config: ComponentConfig) -> str:
    """The first of `markov`, `digits`, `coins` that a metric can score."""
    assert isinstance(config, MetricConfig)
    for name in ("markov", "digits", "coins"):
        if config.refuses(ToScore(DATASETS.get(name).cls)) is None:
            return name
    raise AssertionError(f"{config.type} suits none of the small datasets; pass data=")

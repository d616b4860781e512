"""Values of metrics over samples, and of metrics of a model.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import Tensor

from fewstep.core.registry import Raw
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.metrics.base import METRICS, DrawnFrom, ModelMetric, ToScore
from fewstep.metrics.reference import ReferenceMetric
from fewstep.runs.models import build_component


def score(
    samples: Tensor,
    dataset: Dataset,
    metrics: Sequence[Raw],
    *,
    labels: Tensor | None = None,
    drawn_from: Denoiser | None = None,
) -> dict[str, float]:
    """Values of all `metrics` (configs or names) over the samples.

    Metrics of models are left out; `judge` measures those.

    Args:
        labels: classes that the samples were drawn for, if any.
        drawn_from: model that drew the samples, if any; metrics that are misleading for it warn on standard error.
    """
    values: dict[str, float] = {}
    for config in metrics:
        if _of_models(config):
            continue
        metric = build_component(METRICS, config, dataset=dataset)
        if isinstance(metric, ReferenceMetric) and drawn_from is not None:
            metric.warn_of(drawn_from)
        metric.update_labelled(samples, labels)
        values.update(metric.compute())
    return values


def judge(model: DrawnFrom, dataset: Dataset, metrics: Sequence[Raw]) -> dict[str, float]:
    """Values of those `metrics` that measure the model itself; the ones that cannot are named on standard error."""
    values: dict[str, float] = {}
    for config in filter(_of_models, metrics):
        metric = build_component(METRICS, config, dataset=dataset)
        assert isinstance(metric, ModelMetric)
        if reason := metric.config.refuses(ToScore(type(dataset), model=model)):
            print(f"note: {metric.config.type} is left out: {reason}", file=sys.stderr, flush=True)
            continue
        metric.look_at(model)
        values.update(metric.compute())
    return values


def _of_models(config: Raw) -> bool:
    return METRICS.get(METRICS.parse(config).type).cls.of_models

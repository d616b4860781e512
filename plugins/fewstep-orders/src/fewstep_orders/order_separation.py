"""Whether a model's order separates keys from checks.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.metrics.base import METRICS, DrawnFrom, MetricConfig, ModelMetric, ToScore
from fewstep.metrics.reference import real_samples
from fewstep.predictions.condition import Condition
from fewstep.processes.base import discrete
from fewstep.runtime.streams import SampleStreams
from fewstep_orders.bounds import OrdersNoise
from fewstep_orders.exponents import ExponentClock
from fewstep_orders.keys_and_checks import KeysAndChecks


@METRICS.register("order_separation")
class OrderSeparation(ModelMetric):
    """Area under the ROC curve of exponents: the chance that a key's is larger than a check's (`keys_and_checks`).

    `forward_auc` is of the forward clock on held-out samples, `reverse_auc` of the masks of noised ones at times spread
    evenly over (0, 1). 1 reveals all keys first, 0 all checks, and .5 is no order. Ties count half.
    """

    directions: ClassVar = {"forward_auc": "higher", "reverse_auc": "higher"}

    class Config(MetricConfig):
        type: Literal["order_separation"] = "order_separation"
        samples: int = Field(256, ge=1, description="held-out samples whose exponents are compared")

        def refuses(self, to_score: ToScore) -> str | None:
            if not issubclass(to_score.data, KeysAndChecks):
                return "it scores keys_and_checks only"
            model = to_score.model
            if model is not None and not model.denoiser.process.carry_over:
                return f"'{model.recipe.name}' has no masks, and orders are those of masks"
            return None

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        assert isinstance(dataset, KeysAndChecks)
        self.is_key = dataset.is_key

    @torch.no_grad()
    def measure(self, model: DrawnFrom) -> dict[str, float]:
        denoiser = model.denoiser
        x = real_samples(self.dataset, self.config.samples).to(denoiser.device)
        forward = torch.ones_like(x)
        if isinstance(denoiser, OrdersNoise):
            forward = denoiser.forward_exponents(x, Condition())
        streams = SampleStreams(0, range(len(x)), purpose="order_separation", device=x.device)
        t = (torch.arange(len(x), device=x.device) + 0.5) / len(x)
        z = discrete(denoiser.process).corrupt(x, ExponentClock(forward)(t), generator=streams).x_t
        prediction = denoiser(z, t, t, generator=streams)
        clock = prediction.clock
        reverse = clock.exponents if isinstance(clock, ExponentClock) else torch.ones_like(x)
        everywhere = torch.ones_like(z, dtype=torch.bool)
        return {
            "forward_auc": self._auc(forward, everywhere),
            "reverse_auc": self._auc(reverse, prediction.where),
        }

    def _auc(self, exponents: Tensor, where: Tensor) -> float:
        is_key = self.is_key.to(where.device)
        keys, checks = exponents[where & is_key].double(), exponents[where & ~is_key].double()
        ordered = checks.sort().values
        below, upto = torch.searchsorted(ordered, keys), torch.searchsorted(ordered, keys, right=True)
        return float((below + upto).double().mean() / (2 * len(ordered)))

"""The bound of a model that orders its positions.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from fewstep.grids.base import GRIDS
from fewstep.metrics.base import METRICS, DrawnFrom, MetricConfig, ModelMetric, ToScore
from fewstep.metrics.reference import scored_rows
from fewstep.runtime.streams import SampleStreams
from fewstep_orders.bounds import order_bound


@METRICS.register("order_bound")
class OrderBound(ModelMetric):
    """Negative ELBO on real data, in nats a sample, of ancestral sampling in `steps` equal steps.

    Masks follow the forward clock, the sampler the reverse one. `order_mismatch` is the part of the bound that their
    difference costs. Models without a clock have the process's own on both sides, so all masked models compare.
    """

    directions: ClassVar = {"order_bound": "lower", "order_bound_stderr": "info", "order_mismatch": "info"}

    class Config(MetricConfig):
        type: Literal["order_bound"] = "order_bound"
        of: Literal["held_out", "train"] = Field(
            "held_out", description="which data; a model may know training samples by heart"
        )
        samples: int = Field(512, ge=2, description="most real samples that are scored")
        steps: int = Field(1024, ge=1, description="steps of the walk; more make the bound tighter")
        evaluations: int = Field(32, ge=1, description="steps evaluated for each sample, chosen at random, unbiased")
        batch_size: int = Field(64, ge=1, description="samples scored at once")

        def refuses(self, to_score: ToScore) -> str | None:
            model = to_score.model
            if model is None:
                return None
            denoiser, name = model.denoiser, model.recipe.name
            if not denoiser.process.carry_over:
                return f"'{name}' has no masks, and orders are those of masks"
            if denoiser.block_size is not None:
                return f"'{name}' goes block by block; likelihood_bound scores it"
            return f"'{name}' is conditioned on a class" if denoiser.conditioned_on_labels else None

    config: Config

    def measure(self, model: DrawnFrom) -> dict[str, float]:
        c, device = self.config, model.denoiser.device
        rows = scored_rows(self.dataset, c.of, c.samples, c.type)
        times, parts = GRIDS.build("linear").times(c.steps), []
        for first in range(0, len(rows), c.batch_size):
            x = rows[first : first + c.batch_size].to(device)
            streams = SampleStreams(0, range(first, first + len(x)), purpose="order_bound", device=device)
            bound = order_bound(model.denoiser, x, times, streams, evaluations=c.evaluations)
            parts.append(torch.stack((bound.nats, bound.mismatch)).cpu())
        nats, mismatch = torch.cat(parts, 1)
        return {
            "order_bound": float(nats.mean()),
            "order_bound_stderr": float(nats.std() / len(nats) ** 0.5),
            "order_mismatch": float(mismatch.mean()),
        }

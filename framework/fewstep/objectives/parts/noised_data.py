"""Inputs of objectives that learn from noised real data: times, noised tokens, and conditions.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fewstep.objectives.base import Batch, StepContext
from fewstep.objectives.parts.weighting import WeightingConfig
from fewstep.predictions.condition import Condition
from fewstep.processes.base import Corrupted


class NoisedDataConfig(WeightingConfig):
    """Settings of the times and of labels."""

    antithetic: bool = Field(True, description="spread the times of a batch evenly over [0, 1]")
    min_time: float = Field(1e-3, ge=0, lt=1, description="smallest time drawn")
    label_drop: float = Field(
        0.1, ge=0, le=1, description="share of samples whose label is withheld (label_input), for guidance"
    )


def noised_data(config: NoisedDataConfig, batch: Batch, ctx: StepContext) -> tuple[Tensor, Corrupted, Condition]:
    """Times t ~ U(min_time, 1) ([B], or [B, L] for blocks), the data noised to t, and labels with a share dropped."""
    t = config.min_time + (1 - config.min_time) * ctx.sample_time_of_blocks(batch.size, antithetic=config.antithetic)
    corrupted = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"])
    return t, corrupted, batch.cond.with_labels_dropped(config.label_drop, ctx.generators["noise"])

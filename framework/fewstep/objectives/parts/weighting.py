"""The weight w(t) of a loss, a setting that objectives share.

Shapes: B batch.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.fields import From
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


class WeightingConfig(ComponentConfig):
    """Settings of objectives whose loss is weighted by time."""

    weighting: Literal["constant", "elbo"] = Field("constant", description="w: 1, or the ELBO's -alpha' / (1 - alpha)")
    weight_schedule: Annotated[ComponentConfig | None, From("schedules", optional=True)] = Field(
        None, description="schedule whose ELBO weight is taken in place of the process's own"
    )


def loss_weight(config: WeightingConfig, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """w(t) for times t, both [B] or both [B, L], and the process's schedule."""
    if config.weight_schedule is not None:
        schedule = SCHEDULES.build(config.weight_schedule)
    elif config.weighting == "constant":
        return torch.ones_like(t)
    return schedule.elbo_weight(t)

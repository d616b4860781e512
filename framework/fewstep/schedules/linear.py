"""Linear schedule."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("linear")
class Linear(NoiseSchedule):
    """alpha(t) = (1 - 2 eps) (1 - t) + eps (MD4, arXiv 2406.04329).

    Weight (1 - 2 eps) / (1 - alpha), which is 1 / t for eps = 0. Ends 1 - eps and eps.
    """

    class Config(ComponentConfig):
        type: Literal["linear"] = "linear"
        eps: float = Field(1e-4, ge=0, le=0.05, description="distance of alpha from 1 and from 0 at the ends")

    config: Config

    @property
    def ends(self) -> tuple[float, float]:
        return 1 - self.config.eps, self.config.eps

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - 2 * self.config.eps) * (1 - t) + self.config.eps

    def alpha_prime(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 2 * self.config.eps - 1)

    def noise(self, t: Tensor) -> Tensor:
        return (1 - 2 * self.config.eps) * t + self.config.eps

    def time_of(self, alpha: Tensor) -> Tensor:
        return ((1 - self.config.eps - alpha) / (1 - 2 * self.config.eps)).clamp(0, 1)

"""Polynomial schedule."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("polynomial")
class Polynomial(NoiseSchedule):
    """alpha(t) = (1 - 2 eps) (1 - t^n) + eps (MD4, arXiv 2406.04329).

    Weight (1 - 2 eps) n t^(n - 1) / (1 - alpha), which is n / t for eps = 0. Ends 1 - eps and eps. For n < 1 the slope
    at t = 0 is infinite.
    """

    class Config(ComponentConfig):
        type: Literal["polynomial"] = "polynomial"
        exponent: float = Field(2.0, gt=0, le=10, description="n; 1 is the linear schedule, more leaves signal longer")
        eps: float = Field(1e-4, ge=0, le=0.05, description="distance of alpha from 1 and from 0 at the ends")

    config: Config

    @property
    def ends(self) -> tuple[float, float]:
        return 1 - self.config.eps, self.config.eps

    def alpha(self, t: Tensor) -> Tensor:
        # 1 - t^n through expm1, which keeps its digits near t = 1.
        return (2 * self.config.eps - 1) * torch.expm1(self.config.exponent * torch.log(t)) + self.config.eps

    def alpha_prime(self, t: Tensor) -> Tensor:
        return (2 * self.config.eps - 1) * self.config.exponent * t ** (self.config.exponent - 1)

    def noise(self, t: Tensor) -> Tensor:
        return (1 - 2 * self.config.eps) * t**self.config.exponent + self.config.eps

    def time_of(self, alpha: Tensor) -> Tensor:
        share = ((1 - self.config.eps - alpha) / (1 - 2 * self.config.eps)).clamp(0, 1)
        return share ** (1 / self.config.exponent)

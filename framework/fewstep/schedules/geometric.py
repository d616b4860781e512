"""Geometric schedule."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("geometric")
class Geometric(NoiseSchedule):
    """alpha(t) = exp(-sigma(t)), sigma(t) = sigma_min^(1 - t) sigma_max^t (SEDD, arXiv 2310.16834).

    Weight sigma'(t) / (exp(sigma) - 1) with sigma' = sigma log(sigma_max / sigma_min). Ends exp(-sigma_min) and
    exp(-sigma_max).
    """

    class Config(ComponentConfig):
        type: Literal["geometric"] = "geometric"
        sigma_min: float = Field(
            1e-4, gt=0, le=0.1, description="total noise at t = 0; exp(-sigma_min) of the signal is left"
        )
        sigma_max: float = Field(
            20.0, ge=3, le=80, description="total noise at t = 1; exp(-sigma_max) of the signal is left"
        )

    config: Config

    @property
    def ends(self) -> tuple[float, float]:
        return math.exp(-self.config.sigma_min), math.exp(-self.config.sigma_max)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.config.sigma_max / self.config.sigma_min)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.config.sigma_min * torch.exp(self._log_ratio * t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._sigma(t))

    def alpha_prime(self, t: Tensor) -> Tensor:
        sigma = self._sigma(t)
        return -self._log_ratio * sigma * torch.exp(-sigma)

    def noise(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._sigma(t))

    def time_of(self, alpha: Tensor) -> Tensor:
        # Through log(sigma), so a level of exactly 1 or 0 maps to t = 0 or t = 1 and not to NaN.
        return (torch.log(-torch.log(alpha.clamp(0, 1)) / self.config.sigma_min) / self._log_ratio).clamp(0, 1)

"""Squared cosine schedule."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("cosine_squared")
class CosineSquared(NoiseSchedule):
    """alpha(t) = eps + (1 - eps) cos^2(pi t / 2) (MDLM's code, arXiv 2406.07524).

    Weight pi cot(pi t / 2) for every eps. Ends 1 and eps; slow at both.
    """

    class Config(ComponentConfig):
        type: Literal["cosine_squared"] = "cosine_squared"
        eps: float = Field(1e-3, ge=0, le=0.05, description="signal that is left at t = 1")

    config: Config

    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, self.config.eps

    def alpha(self, t: Tensor) -> Tensor:
        return self.config.eps + (1 - self.config.eps) * torch.sin(math.pi / 2 * (1 - t)) ** 2

    def alpha_prime(self, t: Tensor) -> Tensor:
        # sin(pi t) through the half angle: an argument near pi itself would be off by its rounding.
        return (self.config.eps - 1) * math.pi * torch.sin(math.pi / 2 * t) * torch.sin(math.pi / 2 * (1 - t))

    def noise(self, t: Tensor) -> Tensor:
        return (1 - self.config.eps) * torch.sin(math.pi / 2 * t) ** 2

    def time_of(self, alpha: Tensor) -> Tensor:
        # The arctangent of sine and cosine is accurate at both ends; arcsine and arccosine are each poor at one.
        sine, cosine = (1 - alpha).clamp(min=0).sqrt(), (alpha - self.config.eps).clamp(min=0).sqrt()
        return ((2 / math.pi) * torch.atan2(sine, cosine)).clamp(0, 1)

"""Cosine schedule."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("cosine")
class Cosine(NoiseSchedule):
    """alpha(t) = (1 - 2 eps) (1 - cos(pi/2 (1 - t))) + eps (MD4, arXiv 2406.04329).

    Weight (1 - 2 eps) (pi/2) sin(pi/2 (1 - t)) / (1 - alpha). Ends 1 - eps and eps. It approaches noise slowly, so a
    sampler with equal steps in t draws few tokens at a time while the context is small.
    """

    class Config(ComponentConfig):
        type: Literal["cosine"] = "cosine"
        eps: float = Field(1e-4, ge=0, le=0.05, description="distance of alpha from 1 and from 0 at the ends")

    config: Config

    @property
    def ends(self) -> tuple[float, float]:
        return 1 - self.config.eps, self.config.eps

    def alpha(self, t: Tensor) -> Tensor:
        # 1 - cos x = 2 sin^2(x / 2), which keeps its digits where alpha is small.
        return (1 - 2 * self.config.eps) * 2 * torch.sin(math.pi / 4 * (1 - t)) ** 2 + self.config.eps

    def alpha_prime(self, t: Tensor) -> Tensor:
        return (2 * self.config.eps - 1) * (math.pi / 2) * torch.sin(math.pi / 2 * (1 - t))

    def noise(self, t: Tensor) -> Tensor:
        return (1 - 2 * self.config.eps) * torch.sin(math.pi / 2 * t) + self.config.eps

    def time_of(self, alpha: Tensor) -> Tensor:
        share = ((alpha - self.config.eps) / (1 - 2 * self.config.eps)).clamp(0, 1)
        return (1 - (4 / math.pi) * torch.asin(torch.sqrt(share / 2))).clamp(0, 1)

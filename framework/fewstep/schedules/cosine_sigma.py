"""Cosine schedule in the form that falls late."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("cosine_sigma")
class CosineSigma(NoiseSchedule):
    """alpha(t) = eps + (1 - eps) cos(pi t / 2) (the cosine noise of MDLM's code, arXiv 2406.07524).

    Weight (pi/2) cot(pi t / 4) for every eps. Ends 1 and eps. It leaves the data slowly; `cosine` leaves it at once.
    """

    class Config(ComponentConfig):
        type: Literal["cosine_sigma"] = "cosine_sigma"
        eps: float = Field(1e-3, ge=0, le=0.05, description="signal that is left at t = 1")

    config: Config

    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, self.config.eps

    def alpha(self, t: Tensor) -> Tensor:
        # cos(pi t / 2) as a sine, which keeps its digits near t = 1.
        return self.config.eps + (1 - self.config.eps) * torch.sin(math.pi / 2 * (1 - t))

    def alpha_prime(self, t: Tensor) -> Tensor:
        return (self.config.eps - 1) * (math.pi / 2) * torch.sin(math.pi / 2 * t)

    def noise(self, t: Tensor) -> Tensor:
        return (1 - self.config.eps) * 2 * torch.sin(math.pi / 4 * t) ** 2

    def time_of(self, alpha: Tensor) -> Tensor:
        # Through the half angle: acos would be ill-conditioned at alpha = 1.
        share = ((1 - alpha) / (1 - self.config.eps)).clamp(0, 1)
        return ((4 / math.pi) * torch.asin(torch.sqrt(share / 2))).clamp(0, 1)

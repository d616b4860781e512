"""Log-linear schedule."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("log_linear")
class LogLinear(NoiseSchedule):
    """alpha(t) = 1 - (1 - eps) t: sigma = -log alpha is log-linear (SEDD, arXiv 2310.16834; MDLM, arXiv 2406.07524).

    Weight 1 / t for every eps. Ends 1 and eps.
    """

    class Config(ComponentConfig):
        type: Literal["log_linear"] = "log_linear"
        eps: float = Field(1e-3, ge=0, le=0.05, description="signal that is left at t = 1")

    config: Config

    @property
    def ends(self) -> tuple[float, float]:
        return 1.0, self.config.eps

    def alpha(self, t: Tensor) -> Tensor:
        # Equal to 1 - (1 - eps) t, and keeps its digits near t = 1.
        return (1 - t) + self.config.eps * t

    def alpha_prime(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.config.eps - 1)

    def noise(self, t: Tensor) -> Tensor:
        return (1 - self.config.eps) * t

    def time_of(self, alpha: Tensor) -> Tensor:
        return ((1 - alpha) / (1 - self.config.eps)).clamp(0, 1)

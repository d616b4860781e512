"""Logarithmic schedule."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.schedules.base import SCHEDULES, NoiseSchedule


@SCHEDULES.register("log")
class Log(NoiseSchedule):
    """alpha(t) = 1 - log2(1 + t) (BD3-LM, arXiv 2503.09573).

    Weight 1 / ((1 + t) log(1 + t)). Ends 1 and 0.
    """

    class Config(ComponentConfig):
        type: Literal["log"] = "log"

    config: Config

    def alpha(self, t: Tensor) -> Tensor:
        # Equal to 1 - log2(1 + t) = -log2((1 + t) / 2), and keeps its digits near t = 1.
        return -torch.log1p((t - 1) / 2) / math.log(2)

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -1 / ((1 + t) * math.log(2))

    def noise(self, t: Tensor) -> Tensor:
        return torch.log1p(t) / math.log(2)

    def time_of(self, alpha: Tensor) -> Tensor:
        return torch.expm1((1 - alpha) * math.log(2)).clamp(0, 1)

"""A schedule in one line and its inverse."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fewstep import SCHEDULES, ComponentConfig, NoiseSchedule


@SCHEDULES.register("parabola")
class Parabola(NoiseSchedule):
    """alpha(t) = 1 - t^2: most of the noise comes late."""

    class Config(ComponentConfig):
        type: Literal["parabola"] = "parabola"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t * t

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -2 * t

    def time_of(self, alpha: Tensor) -> Tensor:
        return (1 - alpha).clamp(0, 1).sqrt()

    def noise(self, t: Tensor) -> Tensor:
        return t * t

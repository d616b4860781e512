"""Noise schedules: the share of the clean signal that is left at time t."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from fewstep.core.component import Component
from fewstep.core.registry import Registry


class NoiseSchedule(Component, ABC):
    """alpha(t), elementwise on tensors of any shape; t = 0 is clean data, t = 1 is noise."""

    @property
    def ends(self) -> tuple[float, float]:
        """alpha at t = 0 and at t = 1; a schedule that does not reach 1 or 0 overrides this."""
        return 1.0, 0.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of signal left at t: about 1 at t = 0, about 0 at t = 1, strictly decreasing."""

    @abstractmethod
    def alpha_prime(self, t: Tensor) -> Tensor:
        """d alpha / dt (never positive)."""

    @abstractmethod
    def time_of(self, alpha: Tensor) -> Tensor:
        """The inverse of `alpha`; levels beyond `ends` map to the time of the nearer end."""

    def noise(self, t: Tensor) -> Tensor:
        """1 - alpha(t); override it if the subtraction would lose the digits of small noise."""
        return 1 - self.alpha(t)

    def elbo_weight(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)): weight of the masked cross entropy in the ELBO (MDLM, eq. 10)."""
        return -self.alpha_prime(t) / self.noise(t)


SCHEDULES: Registry[NoiseSchedule] = Registry("noise schedule", NoiseSchedule, "fewstep.schedules")

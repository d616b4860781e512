"""Step grids: the times at which a sampler stops between noise and data."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fewstep.core.component import Component
from fewstep.core.registry import Registry


class StepGrid(Component, ABC):
    """Times t_0 = 1 > t_1 > ... > t_n = 0 of a walk in n steps."""

    @abstractmethod
    def times(self, steps: int) -> list[float]:
        """`steps` + 1 times from 1 down to 0."""


class FormulaGrid(StepGrid):
    """A grid that applies one function to any number of steps."""

    @abstractmethod
    def at(self, share: float) -> float:
        """The time with `share` of the steps to go: an increasing function with 0 at 0 and 1 at 1."""

    def times(self, steps: int) -> list[float]:
        return [1.0, *(self.at(1 - index / steps) for index in range(1, steps)), 0.0]


GRIDS: Registry[StepGrid] = Registry("step grid", StepGrid, "fewstep.grids")

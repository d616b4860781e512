"""Equal steps, and one more from a time near 0."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.grids.base import GRIDS, StepGrid


@GRIDS.register("removal")
class RemovalGrid(StepGrid):
    """Steps of the same length in t down to `time`, and a last one from there: the removal of noise of MDLM and Duo.

    In n steps the first n - 1 are equal, so that the evaluation of the removal counts as any other.
    """

    class Config(ComponentConfig):
        type: Literal["removal"] = "removal"
        time: float = Field(1e-3, gt=0, lt=1, description="time at which the last step begins")

    config: Config

    def times(self, steps: int) -> list[float]:
        end, equal = self.config.time, steps - 1
        return [*(1 - (1 - end) * index / equal for index in range(equal)), *([end] if equal else [1.0]), 0.0]

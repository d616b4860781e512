"""Equal steps."""

from __future__ import annotations

from typing import Literal

from fewstep.component import ComponentConfig
from fewstep.grids.base import GRIDS, StepGrid


@GRIDS.register("linear")
class LinearGrid(StepGrid):
    """Steps of the same length in t."""

    class Config(ComponentConfig):
        type: Literal["linear"] = "linear"

    def at(self, share: float) -> float:
        return share

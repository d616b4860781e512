"""Equal steps."""

from __future__ import annotations

from typing import Literal

from fewstep.core.component import ComponentConfig
from fewstep.grids.base import GRIDS, FormulaGrid


@GRIDS.register("linear")
class LinearGrid(FormulaGrid):
    """Steps of the same length in t."""

    class Config(ComponentConfig):
        type: Literal["linear"] = "linear"

    config: Config

    def at(self, share: float) -> float:
        return share

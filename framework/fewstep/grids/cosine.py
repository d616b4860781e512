"""Cosine steps."""

from __future__ import annotations

import math
from typing import Literal

from fewstep.core.component import ComponentConfig
from fewstep.grids.base import GRIDS, FormulaGrid


@GRIDS.register("cosine")
class CosineGrid(FormulaGrid):
    """t = sin(pi/2 share): short steps near noise and long ones near data (MaskGIT, MD4, arXiv 2406.04329)."""

    class Config(ComponentConfig):
        type: Literal["cosine"] = "cosine"

    config: Config

    def at(self, share: float) -> float:
        return math.sin(math.pi / 2 * share)

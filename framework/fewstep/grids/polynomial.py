"""Polynomial steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.grids.base import GRIDS, FormulaGrid


@GRIDS.register("polynomial")
class PolynomialGrid(FormulaGrid):
    """t = share^power: below 1 shorter steps near noise, above 1 near data."""

    class Config(ComponentConfig):
        type: Literal["polynomial"] = "polynomial"
        power: float = Field(2.0, gt=0, description="exponent; 1 is linear")

    config: Config

    def at(self, share: float) -> float:
        return float(share**self.config.power)

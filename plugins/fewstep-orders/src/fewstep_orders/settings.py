"""Settings that the objectives of orders share."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from fewstep.backbones.base import BACKBONES
from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.processes.base import PROCESSES
from fewstep_orders.exponents import Family


class OrderConfig(ComponentConfig):
    """Times and labels of a step, and the family of orders."""

    min_time: float = Field(1e-3, gt=0, lt=1, description="smallest time drawn")
    label_drop: float = Field(
        0.1, ge=0, le=1, description="share of samples whose label is withheld (label_input), for guidance"
    )

    def family(self) -> Family:
        """The orders that the network of these settings may take."""
        raise NotImplementedError

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        if not PROCESSES.get(recipe.process.type).cls.carry_over:
            yield "", f"orders are those in which masks are revealed, and process '{recipe.process.type}' has no masks"
        if BACKBONES.get(recipe.backbone.type).cls.uses_context:
            yield "", f"backbone '{recipe.backbone.type}' goes block by block, and orders are of whole samples"

"""OeMDM: masked diffusion with a schedule of its own for each position, set beforehand (arXiv 2602.02112)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES
from fewstep_orders.exponents import Family
from fewstep_orders.learned_order import LearnedOrder
from fewstep_orders.settings import OrderConfig

Exponent = Annotated[float, Field(gt=0, le=10)]


@OBJECTIVES.register("fixed_order")
class FixedOrder(LearnedOrder):
    """Position i is masked with probability t^e_i, and its exponent is a setting (OeMDM, arXiv 2602.02112).

    One exponent for all positions is the schedule `polynomial`, and 1 is MDLM. A step reads two noised states of each
    sample, like one of `learned_order`, so that both learn as much from a step.
    """

    class Config(OrderConfig):
        type: Literal["fixed_order"] = "fixed_order"
        exponents: Exponent | tuple[Exponent, ...] = Field(
            1.0, description="exponent of each position, or one for all; larger ones are masked later"
        )

        def family(self) -> Family:
            return Family(self.exponents) if isinstance(self.exponents, float) else Family(fixed=self.exponents)

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            length = getattr(recipe.data, "length", None)
            if isinstance(length, int) and isinstance(self.exponents, tuple) and len(self.exponents) != length:
                yield "exponents", f"{len(self.exponents)} exponents for samples of {length} tokens; set one for each"

    config: Config

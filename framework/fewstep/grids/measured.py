"""Steps found by measurement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.grids.base import GRIDS, StepGrid
from fewstep.grids.files import read_grid_file
from fewstep.runtime.hashing import LocalPath


@GRIDS.register("measured")
class MeasuredGrid(StepGrid):
    """Times with the lowest negative ELBO of a trained model, from a file that `fewstep grid` wrote.

    They come from dynamic programming over a fine grid (Watson et al., arXiv 2106.03802).
    """

    class Config(ComponentConfig):
        type: Literal["measured"] = "measured"
        file: LocalPath = Field(description="file that `fewstep grid RUN` wrote")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            try:
                grid = read_grid_file(Path(self.file))
            except UserError as error:
                yield "file", str(error)
                return
            process = recipe.process.model_dump(mode="json")
            if grid.process != process:
                yield "file", f"'{self.file}' was measured for the process {grid.process}, and this one is {process}"
            missing = [str(steps) for steps in recipe.evaluate.steps if steps not in grid.walks]
            if missing:
                yield (
                    "file",
                    f"'{self.file}' has walks of {grid.step_counts} steps, "
                    f"and evaluate.steps asks for {', '.join(missing)}",
                )

    config: Config

    def times(self, steps: int) -> list[float]:
        grid = read_grid_file(Path(self.config.file))
        if steps not in grid.walks:
            raise UserError(f"grid '{self.config.file}' has no walk of {steps} steps; it has {grid.step_counts}")
        return list(grid.walks[steps].times)

"""The file that `fewstep grid` writes and the grid `measured` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.runtime.files import rewrite

FORMAT: Literal["fewstep-grid/1"] = "fewstep-grid/1"


class Costs(Strict):
    """Measured costs in nats per sample; see `StepCosts`."""

    samples: int = Field(gt=0, description="samples of data that the costs are averaged over")
    evaluations: float = Field(gt=0, description="network evaluations per sample")
    steps: tuple[float, ...] = Field(description="cost of each of the fine steps")
    finest: float = Field(description="cost of the walk in all fine steps")
    coarsest: float = Field(description="cost of the walk in one step")


class Walk(Strict):
    """The cheapest walk in a number of steps, and the costs of the formula grids."""

    times: tuple[float, ...] = Field(min_length=2, description="from 1 down to 0")
    cost: float = Field(description="bound on -log p(x) in nats per sample")
    linear: float = Field(description="the bound of the linear grid")
    cosine: float = Field(description="the bound of the cosine grid")


class GridFile(Strict):
    """Version 1 of the format."""

    format: Literal["fewstep-grid/1"] = FORMAT
    run: str = Field(description="measured run")
    step: int = Field(ge=0, description="training step of the run's checkpoint")
    weights: Literal["ema", "raw"]
    seed: int
    process: dict[str, Any] = Field(description="process section of the recipe; times depend on its schedule")
    posterior: Literal["drawn", "plugged"] = Field(description="posterior of the sampler's steps")
    fine_times: tuple[float, ...] = Field(min_length=2, description="searched times, from 1 down to 0")
    costs: Costs
    walks: dict[int, Walk] = Field(min_length=1, description="by number of steps")

    @property
    def step_counts(self) -> str:
        """Numbers of steps of the walks, for messages."""
        return ", ".join(str(steps) for steps in sorted(self.walks))


def write_grid_file(path: Path, grid: GridFile) -> None:
    """Write a grid as JSON, in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rewrite(path, grid.model_dump_json(indent=2) + "\n")


def read_grid_file(path: Path) -> GridFile:
    """Read the file of `write_grid_file`.

    Raises:
        UserError: the file does not exist, is damaged, or is not a grid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the grid '{path}': {error.strerror}; write it with `fewstep grid`") from None
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is no grid that `fewstep grid` wrote: it is not text") from None
    try:
        return GridFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise UserError(f"'{path}' is no grid that `fewstep grid` wrote, or is damaged ({reason})") from None

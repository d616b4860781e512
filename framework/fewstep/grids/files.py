"""The file that `fewstep grid` writes and the grid `measured` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fewstep.core.component import Strict
from fewstep.core.errors import UserError

FORMAT: Literal["fewstep-grid/1"] = "fewstep-grid/1"


class Costs(Strict):
    """What was measured, in nats a sample; see `StepCosts`."""

    samples: int = Field(gt=0, description="samples of data that costs are means over")
    evaluations: float = Field(gt=0, description="network evaluations that each of them took")
    steps: tuple[float, ...] = Field(description="cost of each of the fine steps")
    finest: float = Field(description="cost of the walk that takes all fine steps")
    coarsest: float = Field(description="cost of the walk in one step")


class Walk(Strict):
    """The cheapest walk in some number of steps, and what the usual ones cost."""

    times: tuple[float, ...] = Field(min_length=2, description="from 1 down to 0")
    cost: float = Field(description="its bound on -log p(x), nats a sample")
    linear: float = Field(description="the same of the linear grid")
    cosine: float = Field(description="the same of the cosine grid")


class GridFile(Strict):
    """Version 1 of the format."""

    format: Literal["fewstep-grid/1"] = FORMAT
    run: str = Field(description="run that it was measured on")
    step: int = Field(ge=0, description="training step of its checkpoint")
    weights: Literal["ema", "raw"]
    seed: int
    process: dict[str, Any] = Field(description="section of its recipe; times mean something under its schedule only")
    posterior: Literal["drawn", "plugged"] = Field(description="how its sampler draws a step")
    fine_times: tuple[float, ...] = Field(min_length=2, description="times that were searched, from 1 down to 0")
    costs: Costs
    walks: dict[int, Walk] = Field(min_length=1, description="by number of steps")

    @property
    def known(self) -> str:
        """The numbers of steps that it has, for messages."""
        return ", ".join(str(steps) for steps in sorted(self.walks))


def write_grid_file(path: Path, grid: GridFile) -> None:
    """Write a grid as JSON, in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(grid.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def read_grid_file(path: Path) -> GridFile:
    """Read what `write_grid_file` wrote.

    Raises:
        UserError: there is no such file, or it is damaged or something else.
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

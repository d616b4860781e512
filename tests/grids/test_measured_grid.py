"""Grid files: what is written is read, and each way of being wrong has its sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.core.errors import RecipeError, UserError
from fewstep.grids.base import GRIDS
from fewstep.grids.files import Costs, GridFile, Walk, read_grid_file, write_grid_file
from fewstep.recipe import parse_recipe

RECIPE = {
    "name": "r",
    "data": "markov",
    "process": "masked",
    "backbone": "transformer",
    "objective": "denoising",
    "train": {"steps": 1},
}


@pytest.fixture
def grid() -> GridFile:
    return GridFile(
        run="runs/x",
        step=20,
        weights="ema",
        seed=0,
        process=parse_recipe(RECIPE).process.model_dump(mode="json"),
        posterior="drawn",
        fine_times=(1.0, 0.75, 0.5, 0.25, 0.0),
        costs=Costs(samples=8, evaluations=4, steps=(4.0, 3.0, 2.0, 1.0), finest=10.0, coarsest=20.0),
        walks={
            2: Walk(times=(1.0, 0.75, 0.0), cost=12.0, linear=13.0, cosine=12.5),
            4: Walk(times=(1.0, 0.75, 0.5, 0.25, 0.0), cost=10.0, linear=10.0, cosine=10.5),
        },
    )


def test_what_is_written_is_read(grid: GridFile, tmp_path: Path) -> None:
    file = tmp_path / "new" / "grid.json"
    write_grid_file(file, grid)
    assert read_grid_file(file) == grid
    assert [path.name for path in file.parent.iterdir()] == ["grid.json"]
    assert json.loads(file.read_text())["format"] == "fewstep-grid/1"
    built = GRIDS.build({"type": "measured", "file": str(file)})
    assert built.times(2) == [1.0, 0.75, 0.0]
    with pytest.raises(UserError, match=r"has no walk of 3 steps; it has 2, 4$"):
        built.times(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the grid '.*': No such file or directory; write it with `fewstep grid`"),
        ("{", r"is no grid that `fewstep grid` wrote, or is damaged \(Invalid JSON"),
        ("{}", r"or is damaged \(run: required key 'run' is missing\)"),
        ('{"format": "fewstep-grid/2"}', r"or is damaged \(format: should be 'fewstep-grid/1'"),
        (b"\xff\xfe", "is no grid that `fewstep grid` wrote: it is not text"),
    ],
)
def test_what_is_wrong_is_said(text: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        GRIDS.build({"type": "measured", "file": str(file)}).times(2)


def test_recipes_are_checked_against_the_file(grid: GridFile, tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    sampler = {"type": "ancestral", "grid": {"type": "measured", "file": str(file)}}

    def parse(**changes: Any) -> None:
        parse_recipe({**RECIPE, "sampler": sampler, **changes})

    with pytest.raises(RecipeError, match=r"sampler\.grid\.file: cannot read the grid"):
        parse(evaluate={"steps": [2]})
    write_grid_file(file, grid)
    parse(evaluate={"steps": [2, 4]})
    with pytest.raises(RecipeError, match=r"has walks of 2, 4 steps, and evaluate\.steps asks for 3, 8"):
        parse(evaluate={"steps": [2, 3, 8]})
    with pytest.raises(RecipeError, match="was measured for the process"):
        parse(evaluate={"steps": [2]}, process={"type": "masked", "schedule": "cosine"})

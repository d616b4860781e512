"""Short trainings that log the numbers that were kept, value by value.

`data/pinned` holds their recipes and numbers. They came out identical on the machine that logged them. Other
processors add up in another order, so values are compared within 1e-6 of themselves or 1e-7 here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from logged_metrics import as_then, logged

from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit

PINNED = Path(__file__).resolve().parents[1] / "data" / "pinned"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs go, shared since the masked one is the student's teacher."""
    return tmp_path_factory.mktemp("pinned")


def pinned(name: str, folder: Path) -> RunDir:
    """Train a pinned recipe in `folder`, unless that is done."""
    run = RunDir(folder / name)
    if not run.metrics.exists():
        teacher = str(pinned("masked", folder).path) if name == "dmmd" else None
        fit(load_recipe(str(PINNED / f"{name}.yaml"), teacher=teacher), run, echo=lambda line: None)
    return run


@pytest.mark.parametrize("name", ["masked", "uniform", "dmmd"])
def test_numbers_are_the_kept_ones(name: str, folder: Path) -> None:
    lines, before = logged(pinned(name, folder).metrics), logged(PINNED / f"{name}.jsonl")
    assert [line["step"] for line in lines] == list(range(4, 28, 4))
    for line, then in zip(lines, before, strict=True):
        assert as_then(line, then) == pytest.approx(then, rel=1e-6, abs=1e-7)

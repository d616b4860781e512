"""`fewstep.benchmark`: a suite as a function."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

import fewstep
from fewstep.bench.running import runner
from fewstep.core.errors import RecipeError


def test_it_returns_what_the_command_writes(finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished.parent, tmp_path / "copy")) / finished.name
    suite = out.parent / "suite.yaml"
    measured = fewstep.benchmark(suite, out=out)
    assert measured.folder == out
    assert {"case", "steps", "nfe", *measured.results.directions} >= measured.rows[0].keys() > {"case", "steps", "nfe"}
    assert [row["case"] for row in measured.rows] == [row.case for row in measured.results.summary]
    shown = measured._repr_html_()
    assert "<table>" in shown
    assert "data:image/png;base64," in shown
    assert "report.html" in repr(measured)


def test_a_wrong_change_names_its_keyword(finished: Path) -> None:
    with pytest.raises(RecipeError, match="changes"):
        fewstep.benchmark(finished.parent / "suite.yaml", changes={"train.stepz": 1}, out="never")


def test_a_stop_stops_the_cells_after_it(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr(runner, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fewstep.benchmark(finished.parent / "suite.yaml", out=tmp_path / "out")

"""The campaigns of `benchmarks/robustness` in a short form: they run, and nothing is lost or read as something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks/robustness"

pytestmark = pytest.mark.slow


def run(script: str, *words: str) -> list[list[str]]:
    """The rows of all tables that a script prints, without heads and rules."""
    command = [sys.executable, str(FOLDER / script), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {i for i, row in enumerate(rows) if not "".join(row).strip(" :-")}
    return [row for i, row in enumerate(rows) if i not in rules and i + 1 not in rules]


def test_damage_is_refused_and_runs_go_on_from_the_checkpoint_before() -> None:
    rows = run("damage.py", "--flips", "16", "--pages", "8", "--cuts", "8", "--swaps", "7", "--resumes", "2")
    total, resumes = rows[-2:]
    assert total[:2] == ["all", "all"]
    tried, refused, harmless, silent, crashed = map(int, total[2:])
    assert tried == refused + harmless >= 16
    assert (silent, crashed) == (0, 0)
    assert resumes == ["2", "2", "0", "0", "0"]


def test_runs_that_are_killed_end_identical() -> None:
    kills, points = run("crashes.py", "--kills", "3", "--points", "4")
    assert kills[1] == "3"
    assert int(kills[2]) >= 1
    assert kills[3:] == ["0", "0"]
    assert points[1:] == ["4", "4", "0", "0"]


def test_a_long_training_is_watched_and_drawn(tmp_path: Path) -> None:
    rows = run("long_run.py", "--steps", "600", "--out", str(tmp_path))
    assert len(rows) == 11
    assert all(float(memory) > 50 and int(files) > 0 and int(threads) > 0 for _, memory, files, threads in rows)
    assert (tmp_path / "long_run.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "long_run.md").is_file()

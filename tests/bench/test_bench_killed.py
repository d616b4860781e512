"""A suite that is killed at random moments ends with the results of one that was left alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.bench.results.results import Results

pytestmark = pytest.mark.medium


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again(write_suite: Callable[..., str], tmp_path: Path, kills: int) -> None:
    """Everything in `results.json` but times; and with the rows, the sheets."""
    source = write_suite(seeds=[0, 1])
    killer = Path(__file__).with_name("killer.py")
    program = [sys.executable, str(killer), source, str(tmp_path), str(kills), str(kills)]
    ran = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    alone = Results.load(tmp_path / "undisturbed" / "results.json")
    assert alone.complete
    for number in range(1, int(ran.stdout) + 1):
        folder = tmp_path / f"round-{number}"
        assert Results.load(folder / "results.json").without_times() == alone.without_times()
        for row in alone.rows:
            if row.sheet:
                assert (folder / row.sheet).read_text() == (tmp_path / "undisturbed" / row.sheet).read_text()

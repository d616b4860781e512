"""A stranger's model runs no code: every way of `ways.py` is tried, and its canary must not be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from arena import Arena
from ways import CODE


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arena:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return Arena(tmp_path)


@pytest.mark.medium
@pytest.mark.parametrize("name", CODE)
def test_no_code_runs(name: str, arena: Arena) -> None:
    outcome = CODE[name](arena)
    assert not arena.canary.exists(), outcome

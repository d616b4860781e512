"""What the tests of suites share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_suite import write_files

from fewstep.bench.runner import run_suite


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[..., str]:
    """Write the suite and its recipes; keyword arguments replace keys of the suite (None removes them)."""
    return lambda **changes: write_files(tmp_path, **changes)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results' folder of a suite that ran undisturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    return run_suite(write_files(folder), str(folder / "out"))

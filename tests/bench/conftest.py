"""What the tests of suites share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_suite import write_files

from fewstep.bench.running.runner import run_suite


@pytest.fixture(autouse=True)
def ctrl_c_works() -> Iterator[None]:
    """A shell starts what it runs in the background with Ctrl-C ignored; tests that send it must not notice."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[..., str]:
    """Write the suite and its recipes; keyword arguments replace keys of the suite (None removes them)."""
    return lambda **changes: write_files(tmp_path, **changes)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results' folder of a suite that ran undisturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    return run_suite(write_files(folder), str(folder / "out"))

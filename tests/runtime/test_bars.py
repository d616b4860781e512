"""Progress: lines in logs, rich's bar on a terminal, tqdm's in a notebook."""

from __future__ import annotations

import io
import sys
import time
from types import SimpleNamespace

import pytest

from fewstep.runtime import bars, progress
from fewstep.runtime.progress import Narrator


class Shown:
    """A bar that keeps what it shows."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, str]] = []
        self.closed = 0

    def show(self, count: int, total: int, note: str = "") -> None:
        self.calls.append((count, total, note))

    def close(self) -> None:
        self.closed += 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What is printed from here on; a fixture would come before pytest's own capture."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("RANK", raising=False)
    return screen


def test_a_log_has_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert bars.audience() == "log"
    assert bars.open_bar("a task", "steps") is None
    narrator = Narrator("a task", every=0.0, patience=0.0)
    narrator(1, 4)
    narrator(4, 4)
    assert capsys.readouterr().err == "a task: 1/4 samples, left 00:01\n"


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    assert bars.audience() == "terminal"
    bar = bars.open_bar("a [task]", "steps")
    assert bar is not None
    assert bars.open_bar("another", "steps") is None, "two would overwrite each other"
    bar.show(3, 8, "loss 0.5")
    time.sleep(0.15)  # its thread draws ten times a second
    bar.close()
    assert "a [task]" in screen.getvalue()
    assert "3/8" in screen.getvalue()
    assert "loss 0.5" in screen.getvalue()
    again = bars.open_bar("another", "steps")
    assert again is not None
    again.close()


@pytest.mark.parametrize(("name", "value"), [("RANK", "1"), ("TERM", "dumb")])
def test_some_terminals_have_lines(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    assert bars.audience() == "log"


def test_a_notebook_has_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="needs the package tqdm")
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert bars.audience() == "notebook"
    bar = bars._Tqdm("a task", "steps")
    bar.show(3, 8, "loss 0.5")
    bar.close()
    assert "a task" in capsys.readouterr().err


def test_a_short_task_has_no_bar_and_each_bar_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Shown] = []

    def open_bar(label: str, unit: str) -> Shown:
        opened.append(Shown())
        return opened[-1]

    monkeypatch.setattr(progress, "open_bar", open_bar)
    Narrator("short", patience=60.0)(1, 2)
    assert opened == []
    narrator = Narrator("long", patience=0.0)
    for count in (1, 2, 3):
        narrator(count, 3)
    assert [bar.calls for bar in opened] == [[(1, 3, ""), (2, 3, ""), (3, 3, "")]]
    assert opened[0].closed == 1
    failed = Narrator("failed", patience=0.0)
    failed(1, 3)
    del failed
    assert opened[1].closed == 1, "a task that failed leaves no bar behind"

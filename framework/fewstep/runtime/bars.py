"""Progress bars, where a person looks: rich's on a terminal, tqdm's in a notebook, none in a log."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import warnings
from typing import Any, Literal, Protocol

Audience = Literal["terminal", "notebook", "log"]


class Bar(Protocol):
    """A bar that is shown until it is closed."""

    def show(self, count: int, total: int, note: str = "") -> None: ...

    def close(self) -> None: ...


def audience() -> Audience:
    """Who reads what this process prints; of several processes that share a terminal, the first has bars at most."""
    ipython = sys.modules.get("IPython")
    if ipython and hasattr(ipython.get_ipython(), "kernel") and importlib.util.find_spec("tqdm") is not None:
        return "notebook"
    alone = multiprocessing.parent_process() is None and "RANK" not in os.environ
    terminal = sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return "terminal" if alone and terminal else "log"


class _Shown:
    """Whether a bar is on the screen; two would overwrite each other."""

    now = False


def open_bar(label: str, unit: str) -> Bar | None:
    """A new bar; None in a log, and while there is another one: the caller then prints lines."""
    place = audience()
    if place == "log" or _Shown.now:
        return None
    return _Rich(label, unit) if place == "terminal" else _Tqdm(label, unit)


class _Rich:
    def __init__(self, label: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit, markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(label, total=None, note="")
        self._progress.start()
        _Shown.now = True

    def show(self, count: int, total: int, note: str = "") -> None:
        fields = {"note": note} if note else {}
        self._progress.update(self._task, completed=count, total=total, **fields)  # type: ignore[arg-type]

    def close(self) -> None:
        self._progress.stop()
        _Shown.now = False


class _Tqdm:
    def __init__(self, label: str, unit: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets it draws with characters, and says so
            from tqdm.auto import tqdm

            self._bar: Any = tqdm(desc=label, unit=f" {unit}", leave=False)
        _Shown.now = True

    def show(self, count: int, total: int, note: str = "") -> None:
        self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count - self._bar.n)

    def close(self) -> None:
        self._bar.close()
        _Shown.now = False

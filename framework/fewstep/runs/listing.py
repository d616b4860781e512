"""The runs below a folder, with their state and last sign of life."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fewstep.core.errors import UserError
from fewstep.runs.folder import RunDir
from fewstep.runtime.lock import is_held
from fewstep.runtime.progress import clock

_TAIL = 4096
"""Bytes at the end of a log in which its last line is looked for."""


@dataclass(frozen=True)
class RunRow:
    """One run.

    Args:
        state: running, stopped, finished, failed; gone if it says that it runs and its process is no more.
        rate: tokens a second at the last line of the log.
        age: seconds since the last sign of life.
    """

    run: str
    state: str
    step: int | None
    steps: int | None
    rate: float | None
    age: float
    last: str

    def plain(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)

    def texts(self) -> dict[str, object]:
        """Cells of a table."""
        return {
            "run": self.run,
            "state": self.state,
            "step": "" if self.step is None else f"{self.step:,}/{self.steps:,}" if self.steps else f"{self.step:,}",
            "tokens/s": "" if self.rate is None else f"{self.rate / 1000:.1f}k",
            "age": clock(self.age),
            "last line": self.last[:80],
        }


def list_runs(folder: str | Path) -> list[RunRow]:
    """Every run below a folder, the one with the newest sign of life last.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"there is no folder '{root}'; runs of recipe NAME lie in runs/NAME, or where --run-dir says")
    found = sorted(root.rglob("recipe.resolved.yaml"))
    return sorted((_row(RunDir(path.parent)) for path in found), key=lambda row: -row.age)


def _row(run: RunDir) -> RunRow:
    status, lines = run.status, run.log_lines()
    state = str(status["state"])
    if state == "running" and not is_held(run.path):  # a process that trains holds its run
        state = "gone"
    files = [path for path in (run.path / "status.json", run.log, run.resolved) if path.exists()]
    touched = max(path.stat().st_mtime for path in files)
    step, steps = (value if isinstance(value, int) else None for value in (status.get("step"), status.get("steps")))
    rate = lines[-1].get("tokens_per_second") if lines else None
    last = str(status["error"]) if "error" in status else _last_line(run.log)
    return RunRow(str(run.path), state, step, steps, rate, max(0.0, time.time() - touched), last)


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")

"""The run folder: all files to inspect, resume, sample and repeat a run."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

from fewstep.core.errors import UserError
from fewstep.runs.checkpoint import list_checkpoints

RUNS = Path("runs")


class RunDir:
    """One folder a run: recipe as given and resolved, environment, log, metrics, checkpoints, samples, status."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.resolved = path / "recipe.resolved.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.tensorboard = path / "tb"
        self.checkpoints = path / "checkpoints"
        self.plugins = path / "plugins"
        self.samples = path / "samples"
        self.evaluate = path / "evaluate"
        self.export = path / "export" / "student_ema.safetensors"
        self._status = path / "status.json"

    @classmethod
    def create(cls, name: str, path: str | Path | None = None) -> RunDir:
        """A new folder: `path`, or `runs/NAME/DATE-TIME-XXXX`.

        Raises:
            UserError: `path` is not empty.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S") + "-" + secrets.token_hex(2)
        folder = Path(path) if path else RUNS / name / stamp
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"run folder '{folder}' is not empty; name another, or continue it with --resume {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run; `.../latest` is the newest run of that folder that has a checkpoint.

        Raises:
            UserError: there is no run.
        """
        folder = Path(path)
        if folder.name == "latest" and not folder.exists():
            runs = [cls(path.parent) for path in sorted(folder.parent.glob("*/recipe.resolved.yaml"))]
            runs = [run for run in runs if run.last_checkpoint()] or runs
            if not runs:
                raise UserError(f"no run in '{folder.parent}'; train one first: fewstep train {folder.parent.name}")
            return runs[-1]
        if not (folder / "recipe.resolved.yaml").exists():
            raise UserError(f"'{folder}' is not a run folder (it holds no recipe.resolved.yaml)")
        return cls(folder)

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if any."""
        checkpoints = list_checkpoints(self.checkpoints)
        return checkpoints[-1] if checkpoints else None

    @property
    def status(self) -> dict[str, object]:
        """`state` (running, stopped, finished, failed), `step` and `steps`."""
        status: dict[str, Any] = json.loads(self._status.read_text()) if self._status.exists() else {"state": "new"}
        return status

    def set_status(self, state: str, **details: object) -> None:
        """Replace the status atomically."""
        partial = self._status.with_suffix(".partial")
        partial.write_text(json.dumps({"state": state, **details}) + "\n")
        partial.replace(self._status)

"""The run folder: all files to inspect, resume, sample and repeat a run."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from fewstep.core.errors import OperationError, UserError
from fewstep.runs.checkpoint import list_checkpoints, read_mark
from fewstep.runtime.files import read_json, rewrite
from fewstep.runtime.lock import LOCK, held

RUNS = Path("runs")


class RunDir:
    """One folder a run: recipe as given and resolved, environment, log, metrics, checkpoints, samples, status.

    It can stand for its path: `Pipeline.from_pretrained(run)`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.resolved = path / "recipe.resolved.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.job = path / "torchrun-job"
        self.tensorboard = path / "tb"
        self.trackers = path / "trackers"
        self.checkpoints = path / "checkpoints"
        self.plugins = path / "plugins"
        self.samples = path / "samples"
        self.evaluate = path / "evaluate"
        self.export = path / "export" / "student_ema.safetensors"
        self._status = path / "status.json"
        self._id = path / "run-id"

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<RunDir: {self.path}, {self.status['state']}>"

    @classmethod
    def create(cls, name: str, path: str | Path | None = None) -> RunDir:
        """A new folder: `path`, or `runs/NAME/DATE-TIME-XXXX`.

        Raises:
            UserError: `path` is not empty.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(2)  # UTC: `latest` goes by it
        folder = Path(path) if path else RUNS / name / stamp
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not cls(folder)._begins():
                raise UserError(
                    f"run folder '{folder}' is not empty; name another, or continue it with --resume {folder}"
                )
            with held(folder, "run"):
                cls(folder)._empty()
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def _begins(self) -> bool:
        """Whether the folder is a run that was interrupted before its first checkpoint, and nothing else."""
        if not self.path.is_dir() or self.status["state"] == "finished":
            return False
        names = {path.name for path in self.path.iterdir()}
        ours = {path.name for path in vars(self).values() if isinstance(path, Path)} | {LOCK, "pairs"}
        partial = {f"{name}.partial" for name in ours}
        return names <= ours | partial and not any(self.checkpoints.glob("*step-*")) and "evaluate" not in names

    def _empty(self) -> None:
        """Remove everything but the lock."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

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

    def identity(self) -> str:
        """Random id of the run, which its checkpoints carry; made when the run begins, and copied with its folder."""
        if not self._id.exists():
            marks = [read_mark(path) for path in list_checkpoints(self.checkpoints)[-1:]]
            known = [mark.run for mark in marks if mark.run]
            rewrite(self._id, (known[0] if known else secrets.token_hex(8)) + "\n")
        return self._id.read_text(encoding="utf-8").strip()

    def log_lines(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl; damaged ones are left out."""
        if not self.metrics.exists():
            return []
        parsed = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, RecursionError):
                parsed.append(json.loads(line))
        return [line for line in parsed if isinstance(line, dict) and isinstance(line.get("step"), int)]

    @property
    def status(self) -> dict[str, object]:
        """`state` (running, stopped, finished, failed), `step` and `steps`; `unknown` if its file is damaged."""
        if not self._status.exists():
            return {"state": "new"}
        try:
            status = read_json(self._status, "")
        except OperationError:
            status = None
        return status if isinstance(status, dict) and "state" in status else {"state": "unknown"}

    def set_status(self, state: str, **details: object) -> None:
        """Replace the status atomically."""
        rewrite(self._status, json.dumps({"state": state, **details}) + "\n")

"""Results of all cases: one JSON file, rewritten after each case, so that a run that was cut off goes on.

A later run of another commit goes on too: each case says which commit measured it.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from fewstep.core.errors import UserError
from fewstep.runs.environment import describe_environment
from fewstep.runtime.files import rewrite

State = Literal["done", "failed", "left out"]
FILE = "results.json"


class Entry(TypedDict):
    """What became of a case: a line for people, numbers by name, the seconds that it took, and the commit."""

    state: State
    text: str
    values: dict[str, Any]
    seconds: float
    commit: str | None


class Records:
    """Entries by part and case in `FOLDER/results.json`.

    Args:
        folder: is made if it is missing.
        measured: where the cases run (`environment`); None for what the file says.

    Raises:
        UserError: the file is of other hardware or of the other form, or it is damaged.
    """

    def __init__(self, folder: Path, measured: dict[str, Any] | None = None) -> None:
        self.path = folder / FILE
        self.environment = measured or {}
        self.parts: dict[str, dict[str, Entry]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists() or measured is None:
            self._read()
        self._write()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.parts, before = content["parts"], content["environment"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--out: '{self.path}' is damaged ({type(error).__name__}); delete it") from None
        for key in ("hardware", "short"):
            if self.environment and before.get(key) != self.environment[key]:
                raise UserError(
                    f"--out: '{self.path}' was measured with {key} {before.get(key)}, this is {self.environment[key]}; "
                    "name another folder"
                )
        self.environment = self.environment or before

    def _write(self) -> None:
        content = {"environment": self.environment, "parts": self.parts}
        rewrite(self.path, json.dumps(content, indent=1) + "\n")

    def entry(self, part: str, case: str) -> Entry | None:
        return self.parts.get(part, {}).get(case)

    def is_done(self, part: str, case: str) -> bool:
        """Whether a case needs no other run; failed ones and those left out do."""
        entry = self.entry(part, case)
        return entry is not None and entry["state"] == "done"

    def add(
        self, part: str, case: str, state: State, text: str, values: dict[str, Any] | None = None, seconds: float = 0.0
    ) -> Entry:
        """Record a case, on disk too."""
        entry = Entry(
            state=state, text=text, values=values or {}, seconds=round(seconds, 1), commit=self.environment["commit"]
        )
        self.parts.setdefault(part, {})[case] = entry
        self._write()
        return entry


def environment(short: bool) -> dict[str, Any]:
    """Hardware, driver, versions, commit and date. The short form says that it measures nothing."""
    facts: dict[str, Any] = dict(describe_environment())
    return {
        **facts,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "short": short,
    }


def _driver() -> str | None:
    """Version of the GPU's driver, as nvidia-smi says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0] if lines else None

"""Wheels, built offline, and clean environments to install them into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def build_wheel(project: Path, out: Path) -> Path:
    """Build offline, with the hatchling that is installed."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


class Environment:
    """A new virtual environment that sees the packages of this interpreter, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.site = Path(self.python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        # Names folders only: what is installed there in editable mode is not followed.
        seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site / "packages_of_the_outer_interpreter.pth").write_text("\n".join(sorted(seen)) + "\n")

    def install(self, *wheels: Path) -> None:
        """Install wheels and nothing else; no index is asked."""
        options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.bin / "python"),
            "install",
            *options,
            *map(str, wheels),
        ]
        done = self._call(command)
        assert done.returncode == 0, done.stderr

    def fewstep(self, *args: str) -> str:
        """What the installed command prints."""
        done = self._call([str(self.bin / "fewstep"), *args])
        assert done.returncode == 0, f"fewstep {' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def known(self) -> dict[str, dict[str, Any]]:
        """`fewstep list --json`, each kind by name."""
        kinds = json.loads(self.fewstep("list", "--json"))
        return {kind: {row["name"]: row for row in rows} for kind, rows in kinds.items()}

    def python(self, *args: str) -> str:
        """What the environment's Python prints for a command line."""
        done = self._call([str(self.bin / "python"), *args])
        assert done.returncode == 0, f"python {' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.work, env=_plain_environment(), capture_output=True, text=True, check=False
        )


def _plain_environment() -> Mapping[str, str]:
    """This environment without what could lead to the checkout or to other plugins."""
    left_out = ("PYTHONPATH", "FEWSTEP_PLUGINS", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

"""Environment of a run: hardware, versions, commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from fewstep.runtime.files import read_json

_VERSIONS = ("torch", "torchvision", "xformers", "numpy", "pydantic", "safetensors")


class Environment(TypedDict):
    """Software and hardware of a computation."""

    versions: dict[str, str]
    plugins: list[str]
    commit: str | None
    hardware: str
    threads: int
    system: str


def describe_environment() -> Environment:
    """Versions, hardware, plugins and commit, as far as they are known."""
    import torch

    from fewstep.core import plugins
    from fewstep.core.version import __version__

    versions = {"python": platform.python_version(), "fewstep": __version__}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    cuda = torch.cuda.is_available()
    return {
        "versions": versions,
        "plugins": [str(plugin) for plugin in plugins.loaded()],
        "commit": commit(),
        "hardware": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


_PLUGIN = re.compile(r"(?P<name>\S+) \((?P<distribution>\S+) (?P<version>[^\s,)]+)\)")
"""A plugin as `describe_environment` writes it; those of files have no version."""


def installed_plugins(names: Sequence[str]) -> list[str]:
    """Descriptions of the installed plugins that a recipe lists: `name (distribution version)`."""
    from fewstep.core import plugins

    known = (str(plugin) for plugin in plugins.loaded())
    return [text for text in known if plugin_versions([text]).keys() & set(names)]


def plugin_versions(descriptions: object) -> dict[str, str]:
    """Versions by name and by distribution, from a list of descriptions or its JSON; empty for anything else."""
    if isinstance(descriptions, str):
        try:
            descriptions = json.loads(descriptions)
        except (ValueError, RecursionError):
            return {}
    texts = descriptions if isinstance(descriptions, list) else []
    matches = [match for text in texts if isinstance(text, str) and (match := _PLUGIN.fullmatch(text))]
    return {match[key]: match["version"] for match in matches for key in ("name", "distribution")}


def run_plugin_versions(environment: Path) -> dict[str, str]:
    """Versions of plugins by the `environment.json` of a run; empty if it does not say."""
    return plugin_versions(_record(environment).get("plugins"))


def run_data_fingerprint(environment: Path) -> str:
    """Fingerprint of the data by the `environment.json` of a run; empty if it does not say."""
    return str(_record(environment).get("data") or "")


def _record(environment: Path) -> dict[str, object]:
    try:
        record = json.loads(environment.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def training_commit(environment: Path) -> str | None:
    """Commit of fewstep at a training, by the `environment.json` of its run; None if that is not known."""
    if not environment.exists():
        return None
    record = read_json(environment, "delete the run to train it anew")
    return record.get("commit") if isinstance(record, dict) else None


def _processor() -> str:
    """Model and number of cores of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """Commit of the fewstep checkout in use, with "+changes" if it is not clean; None for an installed wheel."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    command = ["git", "--no-optional-locks", *arguments]  # a killed status would leave a lock in the repository
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()

"""The place of a model on this machine: a path, or a folder that the Hugging Face Hub gave."""

from __future__ import annotations

import re
from pathlib import Path

from fewstep.core.errors import UserError
from fewstep.runs.exported import CONFIG, HUB_PATTERNS, WEIGHTS, is_exported
from fewstep.runs.folder import RUNS

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_local(name: str | Path) -> bool:
    """Whether a name can only be a path: it exists, lies in a folder that does, or is spelled like a run."""
    path = Path(name)
    beside = len(path.parts) > 1 and (path.parent.is_dir() or path.parts[0] == str(RUNS))
    return path.exists() or beside or path.name == "latest" or path.suffix == ".safetensors"


def local_model(name: str | Path, revision: str | None = None) -> Path:
    """Path of a model: the name itself, or the exported folder of OWNER/NAME on the Hub, fetched or from the cache.

    Nothing else of a repository is taken.

    Args:
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: there is no such path and no such model.
        OperationError: the Hub cannot be reached.
    """
    if is_local(name):
        return Path(name)
    if not _HUB_ID.fullmatch(str(name)):
        raise UserError(f"'{name}' is no folder or file here, and no OWNER/NAME of the Hugging Face Hub")
    from fewstep.runtime.hub import fetch

    path = fetch(str(name), revision, patterns=HUB_PATTERNS)
    if not is_exported(path):
        raise UserError(
            f"'{name}' on the Hub holds no exported model ({CONFIG}, {WEIGHTS}); write one with `fewstep export`"
        )
    return path

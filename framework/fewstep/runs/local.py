"""The place of a model on this machine: a path, a shipped model, or a folder that the Hugging Face Hub gave."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from fewstep.core.errors import FewstepError, UserError
from fewstep.runs.exported import CONFIG, HUB_PATTERNS, WEIGHTS, is_exported
from fewstep.runs.folder import RUNS, RunDir
from fewstep.runs.models import ModelSource, Weights, find_model
from fewstep.runs.shipped import OWNER, is_shipped, manifest, model_path, shipped_name, suggestion
from fewstep.runtime.hashing import sha256

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_local(name: str | Path) -> bool:
    """Whether a name can only be a path: it exists, lies in a folder that does, or is spelled like a run."""
    path = Path(name)
    beside = len(path.parts) > 1 and (path.parent.is_dir() or path.parts[0] == str(RUNS))
    return path.exists() or beside or path.name == "latest" or path.suffix == ".safetensors"


def local_model(name: str | Path, revision: str | None = None) -> Path:
    """Path of a model: the name itself, a shipped model's folder, or the exported folder of OWNER/NAME on the Hub.

    What exists in the current folder wins, then what is shipped. Nothing but exported models is taken from the Hub.

    Args:
        revision: branch, tag or commit on the Hub, where the model is then taken from.

    Raises:
        UserError: there is no such path and no such model.
        OperationError: the Hub cannot be reached.
    """
    path, shipped = model_path(name), shipped_name(name)
    if revision is None and is_shipped(path):
        return path
    if shipped is None and is_local(name):
        return path
    repo = f"{OWNER}/{shipped}" if shipped else str(name)
    if not _HUB_ID.fullmatch(repo):
        raise UserError(f"'{name}' is no model: no folder or file here, and no OWNER/NAME of the Hub{suggestion(repo)}")
    folder = _fetched(repo, revision)
    if shipped and revision is None:
        _check_digests(folder, shipped)
    return folder


def find_named(name: str | Path, weights: Weights = "ema") -> ModelSource:
    """The source of a model by path, shipped name or OWNER/NAME on the Hub, read but not built.

    What is derived from a model of the Hub lies below `runs/`, and not in the Hub's cache.

    Raises:
        UserError: there is no such model.
        OperationError: the Hub cannot be reached.
    """
    path = local_model(name)
    source = find_model(path, weights=weights)
    if is_shipped(path) or path == Path(name):
        return source
    shipped = shipped_name(name)
    repo = f"{OWNER}/{shipped}" if shipped else str(name)
    return replace(source, run=RunDir(RUNS / repo.replace("/", "--")))


def _fetched(repo: str, revision: str | None) -> Path:
    """Folder of an exported model of the Hub, fetched or from the cache; see `local_model`."""
    from fewstep.runtime.hub import fetch

    try:
        path = fetch(repo, revision, patterns=HUB_PATTERNS)
    except FewstepError as error:
        hint = suggestion(repo) if repo.startswith(f"{OWNER}/") else ""
        raise type(error)(f"{error}{hint}") from None
    if not is_exported(path):
        raise UserError(
            f"'{repo}' on the Hub holds no exported model ({CONFIG}, {WEIGHTS}); write one with `fewstep export`"
        )
    return path


def _check_digests(folder: Path, name: str) -> None:
    """Compare a fetched model with the manifest of this version of fewstep.

    Raises:
        UserError: it is another one.
    """
    for file, digest in manifest().models[name].files.items():
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            raise UserError(
                f"'{OWNER}/{name}' on the Hub is not the model of this version of fewstep ({file} differs); "
                "name a revision, or update"
            )

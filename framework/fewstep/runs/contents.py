"""Digests of models and files that settings of metrics, samplers and data name.

They are part of the keys of rows, so that rows measured with other weights under the same name are not reused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from fewstep.core.errors import UserError
from fewstep.core.references import references
from fewstep.runs.exported import is_exported
from fewstep.runs.folder import RunDir
from fewstep.runs.shipped import model_path
from fewstep.runtime.hashing import sha256
from fewstep.runtime.hub import PREFIX

_READ_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".safetensors")
"""Suffixes of the files that are read from a model's folder: settings, tokenizer, weights in safetensors."""


def contents_digest(reference: str) -> str | None:
    """SHA-256 of the files of a reference. Does not depend on their times or on the place of the folder.

    Args:
        reference: the setting of a metric: `hf:FOLDER`, `hf:FILE.gguf`, a run, an exported folder or file, or a
            shipped model.

    Returns:
        None for `hf:NAME@COMMIT`, whose name identifies the weights.

    Raises:
        UserError: a run without a checkpoint, a folder without weights, or a GGUF file that is not there.
    """
    if reference.startswith(PREFIX):
        path = Path(reference.removeprefix(PREFIX))
        if path.suffix == ".gguf":
            if not path.is_file():
                raise UserError(f"reference '{reference}': there is no such GGUF file; check how it is spelled")
            return _digest([path], path.parent)
        return _folder(reference, path) if path.is_dir() else None
    path = model_path(reference)
    if path.is_file():
        return _digest([path], path.parent)
    return _folder(reference, path) if is_exported(path) else _run(RunDir.open(path))


def reference_digests(settings: BaseModel) -> dict[str, str]:
    """Digests of the references in a sampler's settings, such as a classifier's run or a file of steps, by value."""
    names = [entry.value for entry in references(settings) if entry.kind != "file" or Path(entry.value).is_file()]
    return {name: contents_digest(name) or "" for name in names if model_path(name).exists()}


def file_facts(settings: BaseModel) -> dict[str, list[list[object]]]:
    """Names, sizes and times of the files that settings name, by value: a cheap sign that data are others.

    A folder counts with all files below it.
    """
    places = {entry.value: Path(entry.value) for entry in references(settings) if entry.kind == "file"}
    return {name: _listing(path) for name, path in places.items() if path.exists()}


def _listing(path: Path) -> list[list[object]]:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return [[file.relative_to(path.parent).as_posix(), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _folder(reference: str, folder: Path) -> str:
    """Digest of a folder without its subfolders, which hold weights for other programs."""
    files = [path for path in folder.iterdir() if path.suffix in _READ_SUFFIXES and path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        raise UserError(f"reference '{reference}' holds no weights (*.safetensors)")
    return _digest(files, folder)


def _run(run: RunDir) -> str:
    """Digest of a run's newest checkpoint and its recipe."""
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise UserError(f"run '{run.path}' has no checkpoint yet (status: {run.status['state']})")
    return _digest([run.resolved, *(path for path in checkpoint.iterdir() if path.is_file())], run.path)


def _digest(files: Iterable[Path], root: Path) -> str:
    """Digest of the files' names below `root`, and of their contents."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()}\0{sha256(file)}\0".encode())
    return digest.hexdigest()

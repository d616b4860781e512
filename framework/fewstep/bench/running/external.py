"""Models and files from outside of a suite that metrics and samplers read: digests of what they hold.

So what was measured with other weights under the same name is not taken for the present.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from fewstep.core.errors import UserError
from fewstep.core.references import references
from fewstep.likelihood.causal_lm import PREFIX
from fewstep.runs.exported import is_exported
from fewstep.runs.folder import RunDir
from fewstep.runtime.hashing import sha256

_READ = (".json", ".txt", ".model", ".jinja", ".safetensors")
"""What is read of a model's folder: settings, tokenizer, weights. Pages, pictures and pickled weights are not."""


def contents_digest(reference: str) -> str | None:
    """SHA-256 of the files that a reference is read from, whenever they were written and wherever they lie.

    Args:
        reference: as a metric names it: `hf:FOLDER`, a run, or an exported folder or file.

    Returns:
        None where the name says what it is, `hf:NAME@COMMIT`.

    Raises:
        UserError: a run without a checkpoint, or a folder without a model.
    """
    path = Path(reference.removeprefix(PREFIX))
    if reference.startswith(PREFIX):
        return _folder(reference, path) if path.is_dir() else None
    if path.is_file():
        return _digest([path], path.parent)
    return _folder(reference, path) if is_exported(path) else _run(RunDir.open(path))


def named_digests(settings: BaseModel) -> dict[str, str]:
    """Digests of what a sampler's settings name, such as the run of a classifier or a file of steps, by those names."""
    named = [found.value for found in references(settings) if found.kind != "file" or Path(found.value).is_file()]
    return {name: contents_digest(name) or "" for name in named if Path(name).exists()}


def _folder(reference: str, folder: Path) -> str:
    """That of a folder, without what lies in folders below: cut-outs of weights for other programs."""
    files = [path for path in folder.iterdir() if path.suffix in _READ and path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        raise UserError(f"reference '{reference}' holds no weights (*.safetensors)")
    return _digest(files, folder)


def _run(run: RunDir) -> str:
    """That of a run's newest checkpoint, and of its recipe."""
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise UserError(f"run '{run.path}' has no checkpoint yet (status: {run.status['state']})")
    return _digest([run.resolved, *(path for path in checkpoint.iterdir() if path.is_file())], run.path)


def _digest(files: Iterable[Path], root: Path) -> str:
    """Names below `root`, and contents."""
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(f"{file.relative_to(root).as_posix()}\0{sha256(file)}\0".encode())
    return found.hexdigest()

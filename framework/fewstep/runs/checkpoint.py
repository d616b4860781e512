"""Checkpoints: a tree of tensors, numbers and strings as one safetensors file and one JSON file.

Nothing is pickled, so loading a checkpoint runs no code. A checkpoint is a folder `step-00001000`. It is complete once
it holds its mark, the file `DONE`, with the step, the run, the teacher's digest and a SHA-256 of the two other files.
Folders without a mark are ignored.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewstep.core.errors import OperationError, UserError
from fewstep.runtime.files import flush, publish, publish_folder, read_json
from fewstep.runtime.hashing import sha256
from fewstep.runtime.sealed import load_sealed, save_sealed
from fewstep.runtime.sealed_json import note_missing_digest
from fewstep.runtime.tensors import save_tensors

_TENSORS, _TREE, MARK = "state.safetensors", "state.json", "DONE"
_TENSOR = "__tensor__"
EXPORT_FORMAT = "fewstep/1"


class DamagedCheckpoint(OperationError):
    """A checkpoint whose files are not those that were written."""


@dataclass(frozen=True)
class Mark:
    """What a complete checkpoint says of itself.

    Args:
        step: optimiser steps so far.
        run: id of its run (`RunDir.identity`).
        teacher: digest of the weights of the teacher that the run began with, if it has one.
        files: SHA-256 by file name; empty for checkpoints of earlier versions, which cannot be checked.
    """

    step: int
    run: str | None = None
    teacher: str | None = None
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """A state that no longer changes: `tree` is plain data, `tensors` are copies in main memory."""

    tree: object
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, state: dict[str, object]) -> Snapshot:
        """Copy a state."""
        tensors: dict[str, Tensor] = {}
        return cls(_split(state, "", tensors), tensors)


def save_checkpoint(
    folder: Path,
    step: int,
    state: dict[str, object] | Snapshot,
    *,
    keep_last: int,
    keep_every: int | None = None,
    run: str | None = None,
    teacher: str | None = None,
) -> Path:
    """Write `state` as the checkpoint of `step`, then delete all but the newest `keep_last`.

    The new folder appears under its name only when it is complete and on disk.

    Args:
        keep_every: checkpoints of multiples of this number of steps are never deleted.
        run: id of the run.
        teacher: digest of the weights of the teacher that the run began with.

    Raises:
        OSError: it cannot be written, for example on a full disk; nothing of it is left, and earlier ones are whole.
    """
    snapshot = state if isinstance(state, Snapshot) else Snapshot.of(state)
    final, partial = folder / checkpoint_name(step), folder / f".partial-{step:08d}"
    sweep(folder)
    partial.mkdir(parents=True)
    try:
        save_tensors(snapshot.tensors, partial / _TENSORS)
        (partial / _TREE).write_text(json.dumps(snapshot.tree))
        files = {name: sha256(partial / name) for name in (_TENSORS, _TREE)}
        mark = {"step": step, "run": run, "teacher": teacher, "files": files}
        (partial / MARK).write_text(json.dumps(mark) + "\n")
        _remove(final)
        publish_folder(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-keep_last]:
        if not keep_every or step_of(old) % keep_every:
            _remove(old)
    return final


def sweep(folder: Path) -> None:
    """Remove what a killed process has left of a checkpoint that it was writing or deleting."""
    for path in (*folder.glob(".partial-*"), *folder.glob("step-*")):
        if path.is_dir() and not (path.name.startswith("step-") and (path / MARK).exists()):
            shutil.rmtree(path, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint, its mark first, so that a half-deleted one does not count as complete."""
    (checkpoint / MARK).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def checkpoint_name(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Step that the name of a checkpoint's folder says."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    named = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted((path for path in named if (path / MARK).exists()), key=step_of)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint, so that it no longer counts but can still be looked at; returns its new folder."""
    name = aside = f"damaged-{checkpoint.name}"
    number = 1
    while (checkpoint.parent / aside).exists():
        number += 1
        aside = f"{name}-{number}"
    checkpoint.rename(checkpoint.parent / aside)
    flush(checkpoint.parent)
    return checkpoint.parent / aside


def read_mark(path: Path) -> Mark:
    """The mark of a checkpoint; of earlier versions it holds the step alone.

    Raises:
        DamagedCheckpoint: it is not readable, or of another step than its folder.
    """
    try:
        content = json.loads((path / MARK).read_text())
        if isinstance(content, dict):
            files = tuple((str(name), str(digest)) for name, digest in content["files"].items())
            mark = Mark(int(content["step"]), content["run"], content["teacher"], files)
            if {name for name, _ in files} != {_TENSORS, _TREE}:
                raise ValueError("its mark names other files")
        else:
            mark = Mark(int(content))
        if mark.step != step_of(path):
            raise ValueError(f"its mark is that of step {mark.step}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from None
    return mark


def verify_checkpoint(path: Path, run: str | None = None) -> Mark:
    """Compare the files of a checkpoint with its mark; one of an earlier version is accepted with a note.

    Args:
        run: id of the run that it must belong to, if that is known.

    Raises:
        DamagedCheckpoint: a file is missing or has another content.
        OperationError: it belongs to another run.
    """
    mark = read_mark(path)
    if not mark.files:
        note_missing_digest(path)
    for name, expected in mark.files:
        try:
            actual = sha256(path / name)
        except OSError as error:
            raise _damaged(path, error) from None
        if actual != expected:
            raise _damaged(path, ValueError(f"the SHA-256 of {name} is another"))
    if run and mark.run and mark.run != run:
        raise OperationError(
            f"checkpoint '{path}' belongs to another run (id {mark.run}, this run is {run}); move that folder away to "
            "use the one before it"
        )
    return mark


def load_checkpoint(path: Path, only: str = "", *, run: str | None = None) -> dict[str, Any]:
    """Read a checkpoint, or the part of it below the dotted prefix `only` ("ema", "roles/student").

    Args:
        run: id of the run that it must belong to, if that is known.

    Raises:
        DamagedCheckpoint: the files are damaged.
        OperationError: it belongs to another run.
    """
    verify_checkpoint(path, run)
    try:
        node = read_json(path / _TREE, "")
        for key in filter(None, only.split("/")):
            node = node[key]
        with safe_open(path / _TENSORS, framework="pt") as file:
            tree: dict[str, Any] = _join(node, file)
            return tree
    except (OSError, OperationError, ValueError, KeyError, TypeError, SafetensorError, RecursionError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, reason: Exception) -> DamagedCheckpoint:
    text = str(reason).strip("; ") or type(reason).__name__
    return DamagedCheckpoint(f"checkpoint '{path}' is damaged ({text})")


def _split(node: object, path: str, tensors: dict[str, Tensor]) -> object:
    """Move tensors out of a tree, leaving their names in place."""
    if isinstance(node, Tensor):
        tensors[path] = node.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: path}
    if isinstance(node, dict):
        # JSON knows only string keys; optimisers count their parameters, so integer keys are marked.
        return {_key(k): _split(v, f"{path}/{k}" if path else str(k), tensors) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(node)]
    return node


def _join(node: object, file: Any) -> Any:
    if isinstance(node, dict):
        if _TENSOR in node:
            return file.get_tensor(node[_TENSOR])
        return {_unkey(k): _join(v, file) for k, v in node.items()}
    if isinstance(node, list):
        return [_join(v, file) for v in node]
    return node


def _key(key: object) -> str:
    return f"#{key}" if isinstance(key, int) else str(key)


def _unkey(key: str) -> object:
    return int(key[1:]) if key.startswith("#") else key


def export_weights(file: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as one safetensors file with the recipe in its metadata, and a digest of both."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    try:
        save_sealed(weights, partial, metadata)
        publish(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def import_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of `export_weights`: weights, and metadata with the recipe.

    Raises:
        UserError: there is no such file, it is damaged, or `export_weights` did not write it.
    """
    if not file.is_file():
        raise UserError(f"there is no file '{file}'")

    def check(metadata: Mapping[str, str]) -> None:
        if metadata.get("format") != EXPORT_FORMAT:
            raise UserError(f"'{file}' was not exported by fewstep: there is no recipe in it; name a run's export")

    try:
        return load_sealed(file, "export it again", check=check)
    except OperationError as error:  # the person named the file
        raise UserError(str(error)) from None

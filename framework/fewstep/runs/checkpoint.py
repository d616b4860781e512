"""Checkpoints: a tree of tensors, numbers and strings as one safetensors file and one JSON file.

Nothing is pickled, so loading a checkpoint runs no code. A checkpoint is a folder `step-00001000` that holds
`DONE` once it is complete; folders without it are ignored.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewstep.core.errors import OperationError, UserError
from fewstep.runtime.files import flush, publish
from fewstep.runtime.tensors import save_tensors

_TENSORS, _TREE, _DONE = "state.safetensors", "state.json", "DONE"
_TENSOR = "__tensor__"
EXPORT_FORMAT = "fewstep/1"


def save_checkpoint(folder: Path, step: int, state: dict[str, object], *, keep_last: int) -> Path:
    """Write `state` as the checkpoint of `step`, then delete all but the newest `keep_last`.

    The new folder appears under its name only when it is complete and on disk.
    """
    final = folder / checkpoint_name(step)
    partial = folder / f".partial-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    save_tensors(tensors, partial / _TENSORS)
    (partial / _TREE).write_text(json.dumps(tree))
    (partial / _DONE).write_text(f"{step}\n")
    for file in partial.iterdir():
        flush(file)
    _remove(final)
    partial.rename(final)
    for old in list_checkpoints(folder)[:-keep_last]:
        _remove(old)
    return final


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint, `DONE` first, so that a half-deleted one does not count as complete."""
    (checkpoint / _DONE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def checkpoint_name(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / _DONE).exists())


def load_checkpoint(path: Path, only: str = "") -> dict[str, Any]:
    """Read a checkpoint, or the part of it below the dotted prefix `only` ("ema", "roles/student").

    Raises:
        OperationError: the files are damaged.
    """
    try:
        node = json.loads((path / _TREE).read_text())
        for key in filter(None, only.split("/")):
            node = node[key]
        with safe_open(path / _TENSORS, framework="pt") as file:
            tree: dict[str, Any] = _join(node, file)
            return tree
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise OperationError(
            f"checkpoint '{path}' is damaged ({error}); delete that folder to use the one before it"
        ) from None


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
    """Write weights as one safetensors file with the recipe in its metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_tensors({name: w.detach().cpu().contiguous() for name, w in weights.items()}, partial, metadata=metadata)
    publish(partial, file)


def import_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of `export_weights`: weights, and metadata with the recipe.

    Raises:
        UserError: there is no such file, it is damaged, or `export_weights` did not write it.
    """
    if not file.is_file():
        raise UserError(f"there is no file '{file}'")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            if metadata.get("format") != EXPORT_FORMAT:
                raise UserError(f"'{file}' was not exported by fewstep: there is no recipe in it; name a run's export")
            return {name: opened.get_tensor(name) for name in opened.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"'{file}' is damaged ({error}); export it again") from None

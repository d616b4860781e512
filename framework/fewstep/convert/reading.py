"""Tensors of a public checkpoint: a file, a folder, or a repository of the Hugging Face Hub. No code in it is run."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.places import inside
from fewstep.runtime.hub import fetch

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "pytorch_model.bin", "config.json"]
_BUFFERS = ("inv_freq",)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by key, and the content of `config.json` in the same folder, if it exists."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(source: str, *, revision: str | None = None, weights: Literal["ema", "raw"] = "ema") -> Checkpoint:
    """Read a `.safetensors` file, a torch file (tensors only), a folder with either, or a Hub repository.

    Args:
        source: path, or OWNER/NAME on the Hub if there is no such path.
        revision: branch, tag or commit on the Hub (SDTT stores its rounds in branches).
        weights: "ema" takes the averaged weights if a training checkpoint has both.

    Raises:
        UserError: nothing is there, or a file holds more than tensors.
        OperationError: the Hub cannot be reached.
    """
    path = Path(source).expanduser()
    if not path.exists():
        path = _from_hub(source, revision)
    elif revision is not None:
        raise UserError(f"'{source}' is a local path; --revision is for repositories of the Hub")
    file = _weights_in(path) if path.is_dir() else path
    config = file.parent / "config.json"
    return Checkpoint(file, _tensors(file, weights), _json(config) if config.is_file() else {})


def _from_hub(source: str, revision: str | None) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or Path(source).suffix in (".safetensors", ".ckpt", ".pt", ".bin"):
        raise UserError(f"there is no file or folder '{source}', and it is not OWNER/NAME of the Hub")
    return fetch(source, revision, patterns=_PATTERNS)


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    files = [path for suffix in ("safetensors", "ckpt", "pt", "bin") for path in sorted(folder.glob(f"*.{suffix}"))]
    if len(files) == 1:
        return files[0]
    problem = f"several ({', '.join(path.name for path in files[:4])}); name one" if files else f"no {_WEIGHTS[0]}"
    raise UserError(f"weights in folder '{folder}': {problem}")


def _tensors(file: Path, weights: str) -> dict[str, Tensor]:
    try:
        if file.suffix == ".json":
            return {key: tensor for part in _parts(file) for key, tensor in load_file(part).items()}
        if file.suffix == ".safetensors":
            return load_file(file)
        return _unpickled(file, weights)
    except SafetensorError as error:
        raise UserError(f"'{file}' is damaged ({error}); fetch it again") from None
    except FileNotFoundError as error:
        raise UserError(f"'{file}' names a missing part: {error.filename or error}") from None


def _parts(index: Path) -> list[Path]:
    """Files that an index names, beside it."""
    parts = _json(index).get("weight_map")
    names = parts.values() if isinstance(parts, dict) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"'{index}' names no parts; fetch it again")
    return [inside(index.parent, name, f"'{index}'") for name in sorted(set(names))]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is not JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def _unpickled(file: Path, weights: str) -> dict[str, Tensor]:
    """Tensors of a torch file; `weights_only` prevents it from running code."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{file}' holds Python objects besides tensors, or is no torch file, and reading those runs code; "
            "save its tensors alone at its origin: torch.save({'state_dict': checkpoint['state_dict']}, FILE)"
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"'{file}' is damaged ({' '.join(str(error).split())[:120]}); fetch it again") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"'{file}' holds no tensors by name")
    average = content.get("ema", {}).get("shadow_params") if isinstance(content.get("ema"), dict) else None
    return tensors if weights == "raw" or not average else {**tensors, **dict(_averaged(file, tensors, average))}


def _averaged(file: Path, tensors: dict[str, Tensor], average: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names of averaged weights, which are stored as a list in the order of the network's parameters."""
    names = [key for key in tensors if not key.endswith(_BUFFERS)]
    fits = len(names) == len(average) and all(
        tensors[name].shape == w.shape for name, w in zip(names, average, strict=True)
    )
    if not fits:
        raise UserError(
            f"'{file}': its {len(average)} averaged weights do not match its {len(names)} parameters; "
            "import the raw weights with --weights raw"
        )
    yield from zip(names, average, strict=True)

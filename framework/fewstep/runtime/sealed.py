"""Sealed tensors: a safetensors file whose metadata hold a digest of all its content, checked when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewstep.core.errors import OperationError
from fewstep.runtime.sealed_json import SEAL, note_missing_digest
from fewstep.runtime.tensors import save_tensors

_EARLIER = {"format", "key", "recipe", "step"}
"""Keys of the metadata of files without a digest; with any other key the digest is there, but its key is damaged."""


def save_sealed(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and metadata with the digest of both; the caller moves the file to its place."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = dict(metadata or {})
    save_tensors(plain, file, metadata={**facts, SEAL: _digest(plain, facts)})


def load_sealed(
    file: Path, remedy: str, *, check: Callable[[Mapping[str, str]], None] = lambda metadata: None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file, compared with its digest.

    A file of an earlier version has no digest. It is read with a note.

    Args:
        remedy: what the reader can do if the file is damaged, the end of the sentence.
        check: called with the metadata before anything else is read.

    Raises:
        OperationError: the file cannot be read or is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            check(metadata)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise OperationError(f"'{file}' is damaged ({error}); {remedy}") from None
    seal = metadata.pop(SEAL, None)
    if seal is None and metadata.keys() <= _EARLIER:
        note_missing_digest(file)
    elif seal != _digest(tensors, metadata):
        raise OperationError(f"'{file}' is damaged or was changed (its digest is another); {remedy}")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of the tensors, and of the metadata."""
    sha256 = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()

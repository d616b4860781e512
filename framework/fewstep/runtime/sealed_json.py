"""Sealed JSON: an object with a digest of all its other entries, checked when it is read.

This module does not import torch, since preparation of text does without.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from fewstep.core.errors import UserError

SEAL = "seal"
"""Key of the digest in sealed files."""


def sealed_json(content: Mapping[str, object]) -> dict[str, object]:
    """A JSON object with its digest in the entry `seal`."""
    return {**content, SEAL: _json_digest(content)}


def unsealed_json(content: Mapping[str, object], file: Path, remedy: str) -> dict[str, object]:
    """A JSON object without its digest, which is compared; one of an earlier version, without, is read with a note.

    Args:
        remedy: what the reader can do if the file is damaged, the end of the sentence.

    Raises:
        UserError: the digest is another.
    """
    plain = {key: value for key, value in content.items() if key != SEAL}
    if SEAL not in content:
        note_missing_digest(file)
    elif content[SEAL] != _json_digest(plain):
        raise UserError(f"'{file}' is damaged or was changed (its digest is another); {remedy}")
    return plain


def _json_digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def note_missing_digest(path: Path) -> None:
    """Say that damage to a file or checkpoint of an earlier version would not be noticed."""
    note = f"note: '{path}' is of an earlier version and has no digest; damage to it would go unnoticed"
    print(note, file=sys.stderr, flush=True)

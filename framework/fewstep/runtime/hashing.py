"""Shared parts of what reads files: absolute paths, digests, and text with readable errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from fewstep.core.errors import UserError
from fewstep.core.references import Ref
from fewstep.runtime.plain_text import decoded_file

_BLOCK = 1 << 20

LocalPath = Annotated[str, Ref("file"), AfterValidator(lambda path: str(Path(path).expanduser().absolute()))]
"""A setting that names a file or folder, relative to the current folder. It is made absolute, since a run is sampled
from other folders than the one of its training."""


def sha256(file: Path, on_read: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file's bytes, read in blocks; `on_read` is called with the size of each block."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
            on_read(len(block))
    return digest.hexdigest()


def digest_of(value: object) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_utf8(path: Path) -> str:
    """Contents of a text file, by the rule of `fewstep.runtime.plain_text`.

    Raises:
        UserError: the file is missing, unreadable, empty or not UTF-8.
    """
    try:
        text = decoded_file(path.read_bytes())
    except UnicodeDecodeError as error:
        raise UserError(f"data.path: '{path}' is not UTF-8 text (byte {error.start}: {error.reason})") from None
    except OSError as error:
        raise UserError(f"data.path: cannot read '{path}': {error.strerror}") from None
    if not text:
        raise UserError(f"data.path: '{path}' is empty")
    return text

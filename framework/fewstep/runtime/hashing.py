"""What datasets that lie in files have in common: paths that stay valid, digests, text read with errors for people."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from fewstep.core.errors import UserError

_BLOCK = 1 << 20

LocalPath = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser().absolute()))]
"""A setting that names a file or folder. It is made absolute, since a run is sampled from other folders than it was
trained in; a relative path is taken from the current folder."""


def sha256(file: Path, seen: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of a file's bytes, read a piece at a time; `seen` is told how many each time."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            found.update(block)
            seen(len(block))
    return found.hexdigest()


def read_utf8(path: Path) -> str:
    """Contents of a text file.

    Raises:
        UserError: missing, unreadable, empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"data.path: '{path}' is not UTF-8 text (byte {error.start}: {error.reason})") from None
    except OSError as error:
        raise UserError(f"data.path: cannot read '{path}': {error.strerror}") from None
    if not text:
        raise UserError(f"data.path: '{path}' is empty")
    return text

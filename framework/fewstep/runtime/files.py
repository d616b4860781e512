"""Durable files: complete or missing, even if the process is killed or the machine loses power; and our own JSON.

A rename is atomic, but it reaches the disk apart from the content. So the content is flushed before it, and the folder
after it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fewstep.core.errors import OperationError

MAX_JSON = 1 << 28
"""Limit on the bytes of a JSON file: 256 MB."""


def rewrite(file: Path, text: str) -> None:
    """Replace a text file in one move; a reader sees the old text or the new text, never a part."""
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)  # in a stranger's folder it may be a link, which writing would follow
    try:
        partial.write_text(text, encoding="utf-8")
        publish(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(file: Path, destination: Path) -> None:
    """Move a file to its destination once it is on disk, and wait until the move is too."""
    flush(file)
    file.replace(destination)
    flush(destination.parent)


def publish_folder(folder: Path, destination: Path) -> None:
    """Move a folder to its destination, which does not exist, once all its files are on disk; wait for the move too."""
    for path in sorted(folder.rglob("*"), reverse=True):
        flush(path)
    flush(folder)
    folder.rename(destination)
    flush(destination.parent)


def read_json(file: Path, remedy: str, *, limit: int = MAX_JSON) -> Any:
    """Content of a JSON file that fewstep wrote.

    Args:
        remedy: what the reader can do if the file is damaged, the end of the sentence.
        limit: largest size in bytes.

    Raises:
        OperationError: the file cannot be read, is too large, or is no JSON.
    """
    try:
        size = file.stat().st_size
        if size > limit:
            raise OperationError(f"'{file}' has {size:,} bytes, more than the {limit:,} that are read; {remedy}")
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperationError(f"cannot read '{file}': {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OperationError(f"'{file}' is damaged ({reason}); {remedy}") from None

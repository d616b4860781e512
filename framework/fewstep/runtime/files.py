"""Atomic writes: a file is complete or missing, even if the process that writes it is killed."""

from __future__ import annotations

import os
from pathlib import Path


def rewrite(file: Path, text: str) -> None:
    """Replace a text file in one move; a reader sees the old text or the new text, never a part."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def flush(file: Path) -> None:
    """Wait until a file is on disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def publish(file: Path, destination: Path) -> None:
    """Move a file to its destination once it is on disk."""
    flush(file)
    file.replace(destination)

"""Files that are whole or not there, whatever kills the process that writes them."""

from __future__ import annotations

import os
from pathlib import Path


def rewrite(file: Path, text: str) -> None:
    """Replace a text file in one move; whoever reads it finds the old text or the new."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def flush(file: Path) -> None:
    """Return once a file is on disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def publish(file: Path, place: Path) -> None:
    """Move a file to its place once it is on disk."""
    flush(file)
    file.replace(place)

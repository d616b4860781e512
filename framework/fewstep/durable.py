"""Files that are whole or not there, whatever kills the process that writes them."""

from __future__ import annotations

import os
from pathlib import Path


def flush(file: Path) -> None:
    """Return once a file is on disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def publish(file: Path, place: Path) -> None:
    """Move a file to its place once it is on disk."""
    flush(file)
    file.replace(place)

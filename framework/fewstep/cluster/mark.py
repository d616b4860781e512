"""A mark in the folder of the results, by which workers find out whether they see that folder."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".cluster-"


@contextmanager
def marked(folder: Path) -> Iterator[tuple[Path, str]]:
    """A file in `folder` and the token that it holds; marks of processes that were killed are removed.

    The owner locks its mark, and the system releases the lock when the process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob(f"{_PREFIX}*"):
        _remove_if_left(other)
    token = secrets.token_hex(8)
    mark = folder / f"{_PREFIX}{token}"
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, token.encode())
        yield mark, token
    finally:
        os.close(descriptor)
        mark.unlink(missing_ok=True)


def _remove_if_left(mark: Path) -> None:
    try:
        descriptor = os.open(mark, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mark.unlink(missing_ok=True)
    except OSError:  # its owner lives
        return
    finally:
        os.close(descriptor)

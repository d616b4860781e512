"""A folder is held by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewstep.core.errors import OperationError

LOCK = ".lock"
"""Name of the lock's file; it stays, and only a lock that the system holds on it counts."""


@contextmanager
def held(folder: Path, use: str, *, file: Path | None = None, if_writable: bool = False) -> Iterator[None]:
    """Hold a folder while the block runs; the system releases it when the process ends, however it ends.

    Args:
        use: what the folder is, for the message: "run", "results".
        file: the lock; None for `.lock` in the folder.
        if_writable: do without where the folder cannot be written.

    Raises:
        OperationError: another process holds it; the message says which. Or it cannot be written.
    """
    file = file or folder / LOCK
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        if not if_writable:
            raise
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a stranger's may be a link
    except OSError as error:
        if if_writable:
            yield
            return
        raise OperationError(f"cannot write to the {use} folder '{folder}': {error.strerror}") from None
    try:
        _lock(descriptor, file, folder, use)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(whoami()).encode() + b"\n", 0)
        yield
    finally:
        os.close(descriptor)


def whoami() -> dict[str, object]:
    """Process, machine and time, for a lock or a status."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "time": round(time.time(), 1)}


def is_held(folder: Path) -> bool:
    """Whether a process of this machine, or of another one on a file system with locks, holds the folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, file: Path, folder: Path, use: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OperationError(
            f"{use} folder '{folder}' is in use by {_holder(file)}; wait for its end, or stop it first"
        ) from None
    except OSError:  # a file system without locks: one process at a time is then the user's care
        return


def _holder(file: Path) -> str:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(facts["time"])))
        return f"process {int(facts['pid'])} on {str(facts['host'])[:80]} since {since}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"

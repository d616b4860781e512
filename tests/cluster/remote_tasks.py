"""Functions that tests hand to workers; a worker imports them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from fewstep.cluster.worker import Report
from fewstep.core.errors import UserError
from fewstep.runtime.signals import end_is_asked


def square(report: Report, number: int, *needs: object) -> int:
    report("line", f"square of {number}")
    return number * number + sum(need for need in needs if isinstance(need, int))


def refuse(report: Report, text: str, *needs: object) -> None:
    raise UserError(text)


def fail(report: Report) -> None:
    raise ZeroDivisionError("by zero")


def die(report: Report, marker: Path, times: int) -> str:
    """As a process that memory ran out for, this many times; each time leaves a file."""
    count = len(list(marker.glob("*")))
    if count < times:
        (marker / str(count)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"alive after {count}"


def wait_for_end(report: Report, seconds: float) -> str:
    """Until the end is asked for."""
    report("line", "waits")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if end_is_asked():
            report("line", "was asked to end")
            raise KeyboardInterrupt
        time.sleep(0.01)
    return "was not asked"

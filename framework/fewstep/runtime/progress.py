"""Progress of long tasks, and the time that they still take."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the completed and the total count."""


class Narrator:
    """Reports the progress of a long task on standard error; a task shorter than `every` seconds stays silent.

    Args:
        label: name of the task.
        every: seconds between reports.
        unit: unit of the counts.
    """

    def __init__(self, label: str, every: float = 5.0, unit: str = "samples") -> None:
        self.label, self.every, self.unit = label, every, unit
        self.start = self.last_report = time.monotonic()

    def __call__(self, count: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last_report >= self.every and count < total:
            self.last_report = now
            left = clock((now - self.start) / count * (total - count))
            print(f"{self.label}: {count}/{total} {self.unit}, left {left}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """`mm:ss`, or `h:mm:ss` from one hour on."""
    hours, remainder = divmod(math.ceil(seconds), 3600)
    minutes = f"{remainder // 60:02d}:{remainder % 60:02d}"
    return f"{hours}:{minutes}" if hours else minutes

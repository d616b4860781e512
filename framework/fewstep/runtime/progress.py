"""Progress of long tasks, and the time that they still take."""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections.abc import Callable

from fewstep.runtime.bars import Bar, open_bar

Progress = Callable[[int, int], None]
"""Called with the completed and the total count."""


class Narrator:
    """Reports the progress of a long task on standard error: by a bar where a person looks, else by lines.

    A task shorter than `patience` seconds shows no bar, and one shorter than `every` prints no line.

    Args:
        label: name of the task.
        every: seconds between lines.
        unit: unit of the counts.
        patience: seconds before a bar is shown.
    """

    def __init__(self, label: str, every: float = 5.0, unit: str = "samples", patience: float = 1.0) -> None:
        self.label, self.every, self.unit, self.patience = label, every, unit, patience
        self.start = self.last_report = time.monotonic()
        self._bar: Bar | None = None
        self._asked = False

    def __call__(self, count: int, total: int) -> None:
        now = time.monotonic()
        if not self._asked and now - self.start >= self.patience and count < total:
            self._asked, self._bar = True, open_bar(self.label, self.unit)
            if self._bar is not None:
                self.close = weakref.finalize(self, self._bar.close)  # also when the task fails
        if self._bar is not None:
            self._bar.show(count, total)
            if count >= total:
                self.close()
                self._bar, self._asked = None, False
        elif now - self.last_report >= self.every and count < total:
            self.last_report = now
            left = clock((now - self.start) / count * (total - count))
            print(f"{self.label}: {count}/{total} {self.unit}, left {left}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """`mm:ss`, or `h:mm:ss` from one hour on."""
    hours, remainder = divmod(math.ceil(seconds), 3600)
    minutes = f"{remainder // 60:02d}:{remainder % 60:02d}"
    return f"{hours}:{minutes}" if hours else minutes

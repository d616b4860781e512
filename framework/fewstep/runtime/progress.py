"""How far long work is, and how long it still takes."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how much is done and how much is wanted."""


class Narrator:
    """Says on standard error, every few seconds, how far a long job is; short jobs hear nothing of it."""

    def __init__(self, what: str, every: float = 5.0, unit: str = "samples") -> None:
        self.what, self.every, self.unit = what, every, unit
        self.begun = self.said = time.monotonic()

    def __call__(self, done: int, wanted: int) -> None:
        now = time.monotonic()
        if now - self.said >= self.every and done < wanted:
            self.said = now
            left = clock((now - self.begun) / done * (wanted - done))
            print(f"{self.what}: {done}/{wanted} {self.unit}, left {left}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """`mm:ss`, or `h:mm:ss` from one hour on."""
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"

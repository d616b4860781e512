"""What scripts that measure ratios and memory share."""

from __future__ import annotations

import statistics
from pathlib import Path


def quartiles(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def resident(key: str) -> int:
    """Bytes of memory of this process: now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

"""Peak memory since a moment: of tensors on a GPU, of the process on the CPU."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_MB = 2**20
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak(device: torch.device) -> None:
    """Begin to measure. Outside Linux the CPU's peak cannot be reset, and counts from the start of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")


def peak_megabytes(device: torch.device) -> float:
    """Peak in megabytes (2^20 bytes): `torch.cuda.max_memory_allocated`, or the process's resident memory."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / _MB, 1)
    with suppress(OSError, StopIteration):
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (_MB if sys.platform == "darwin" else 1024), 1)

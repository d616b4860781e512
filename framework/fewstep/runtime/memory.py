"""The most memory that was taken since a moment: on a GPU by tensors, on the CPU by the process."""

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
    """Begin to measure. Where the system cannot (other than Linux), the CPU's peak is since the process began."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")


def peak_megabytes(device: torch.device) -> float:
    """Megabytes (2^20 bytes): `torch.cuda.max_memory_allocated`, or what the process had resident, Python included."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / _MB, 1)
    with suppress(OSError, StopIteration):
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return round(int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024, 1)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (_MB if sys.platform == "darwin" else 1024), 1)

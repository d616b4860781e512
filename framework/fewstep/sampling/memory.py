"""How many samples to draw at once.

A step on a few samples is watched, and the largest sum of tensors that are alive at the same time is what a sample
takes. That counts activations, logits and random numbers alike, on any device; what kernels use inside themselves is
not seen, so half of the free memory is left alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep.denoisers.base import Denoiser

PROBE = 4
"""Samples that are watched."""
SHARE = 0.5
"""Of the free memory."""
MOST = {"cpu": 64, "cuda": 1024}
"""Larger batches are hardly faster, and an interruption would lose more."""


def fitting_batch(denoiser: Denoiser, draw: Callable[[range], Any], count: int) -> int:
    """Samples that fit into memory together.

    Args:
        draw: draws the samples with these numbers in one step.
        count: samples that there are.
    """
    counted, watched = (denoiser.nfe, denoiser.evaluated), min(PROBE, count)
    with LiveMemory() as memory:
        draw(range(watched))
    denoiser.nfe, denoiser.evaluated = counted
    device = denoiser.device
    fitting = int(SHARE * free_memory(device) / max(1, memory.peak / watched))
    return max(1, min(fitting, MOST["cpu" if device.type == "cpu" else "cuda"]))


class LiveMemory(TorchDispatchMode):
    """Within it, `peak` is the most bytes that new tensors held at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed; views share one."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: of the GPU, or of the machine and of the group that the process is limited to."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["active_file"]) + int(stat["inactive_file"])  # given back when it is needed
        free = min(free, int(limit) - int((group / "memory.current").read_text()) + cached)
    return max(0, free)

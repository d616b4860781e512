"""The number of samples that fit into memory in one batch.

One step on a few samples is measured: the peak of the bytes of live tensors is the memory that they take. It counts
activations, logits and random numbers on any device. It misses the buffers inside kernels, so half of the free memory
stays unused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewstep.denoisers.base import Denoiser

PROBE = 4
"""Samples of the measured step."""
SHARE = 0.5
"""Used share of the free memory."""
MAX_BATCH = {"cpu": 64, "cuda": 1024}
"""Limits of a batch: larger ones are hardly faster, and an interruption would lose more."""


def fitting_batch(denoiser: Denoiser, draw: Callable[[range], object], count: int) -> int:
    """The number of samples that fit into memory together.

    Args:
        draw: draws the samples with these numbers in one step.
        count: number of samples of the request.
    """
    counters, probes = (denoiser.nfe, denoiser.evaluated), min(PROBE, count)
    with LiveMemory() as memory:
        draw(range(probes))
    denoiser.nfe, denoiser.evaluated = counters
    device = denoiser.device
    fitting = int(SHARE * free_memory(device) / max(1, memory.peak / probes))
    return max(1, min(fitting, MAX_BATCH["cpu" if device.type == "cpu" else "cuda"]))


class LiveMemory(TorchDispatchMode):
    """Context in which `peak` is the largest number of bytes that new tensors held at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed; a tensor and its views share one, so it is counted once."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._live -= size


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: on the GPU, or on the machine within the limit of the process's cgroup."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["active_file"]) + int(stat["inactive_file"])  # the kernel frees it on demand
        free = min(free, int(limit) - int((group / "memory.current").read_text()) + cached)
    return max(0, free)

"""Batches that fit into memory: half as many samples at once, whenever memory runs out."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from fewstep.core.errors import is_out_of_memory

T = TypeVar("T")

MAX_BATCH = {"cpu": 64, "cuda": 1024}
"""Limits of a batch: larger ones are hardly faster, and an interruption would lose more."""
_PAGE = resource.getpagesize()


def largest_batch(device: torch.device) -> int:
    """Limit of the samples that are drawn at once."""
    return MAX_BATCH["cpu" if device.type == "cpu" else "cuda"]


def draw_fitting(
    draw: Callable[[range], T], numbers: range, size: int, device: torch.device
) -> Iterator[tuple[range, T]]:
    """Draw samples in batches of `size`; when memory runs out, in batches of half that size from there on.

    Args:
        draw: draws the samples with these numbers; its result may not depend on how they are divided.

    Raises:
        MemoryError, RuntimeError: a single sample does not fit.
    """
    position = numbers.start
    while position < numbers.stop:
        batch = range(position, min(position + size, numbers.stop))
        drawn = _drawn_if_fitting(draw, batch, device)
        if drawn is None:
            size = len(batch) // 2
            continue
        yield batch, drawn
        position = batch.stop


def _drawn_if_fitting(draw: Callable[[range], T], batch: range, device: torch.device) -> T | None:
    """The result of `draw`; None if memory ran out. The error, which holds the batch's tensors, is gone by then."""
    try:
        with bounded_memory(device):
            return draw(batch)
    except Exception as error:
        if len(batch) == 1 or not is_out_of_memory(error):
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


@contextmanager
def bounded_memory(device: torch.device) -> Iterator[None]:
    """Within it, what does not fit into free memory is an error; otherwise Linux may kill the process.

    On a GPU an allocation fails by itself. A limit that was set before stays as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = None if device.type != "cpu" or soft != resource.RLIM_INFINITY else _writable_memory()
    if limit is None:
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _writable_memory() -> int | None:
    """Bytes of this process's private memory and of what is free; None outside Linux."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        return pages * _PAGE + free_memory()
    except OSError:
        return None


def free_memory() -> int:
    """Bytes that can still be allocated on the machine, within the limit of the process's cgroup.

    Raises:
        OSError: this is not Linux.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["active_file"]) + int(stat["inactive_file"])  # the kernel frees it on demand
        free = min(free, int(limit) - int((group / "memory.current").read_text()) + cached)
    return max(0, free)

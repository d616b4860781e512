"""Times on a GPU or CPU, and distances of tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def synchronise(device: torch.device) -> None:
    """Wait for the work of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device, *, calls: int, windows: int = 3) -> float:
    """Median over windows of the time of a call in seconds. A GPU is waited for at the ends of a window only."""
    times = []
    for _ in range(windows):
        synchronise(device)
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        synchronise(device)
        times.append((time.perf_counter() - begin) / calls)
    return statistics.median(times)


def distance(ours: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """Norm of the difference of two tensors over that of the exact one; the worst of all pairs."""
    worst = 0.0
    for a, b in zip(ours, exact, strict=True):
        b = b.detach().double().cpu()
        gap = (a.detach().double().cpu() - b).norm() / b.norm().clamp_min(1e-30)
        worst = max(worst, float(gap)) if torch.isfinite(gap) else float("inf")
    return worst


def product_rate(device: torch.device, size: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of a product of random square matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2.0 * size**3 / seconds(lambda: a @ b, device, calls=10)

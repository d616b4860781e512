"""How fast samples are drawn, how fast a model was trained, and what memory that took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.runtime.memory import peak_megabytes, reset_peak


def time_drawing(draw: Callable[[], Tensor], device: torch.device, repeats: int) -> dict[str, float]:
    """Tokens drawn per second, by the median of so many draws, and the most memory that one of them took.

    Args:
        draw: returns samples, LongTensor [N, L]; it was called before, so that nothing has to warm up.
    """
    reset_peak(device)
    seconds, tokens = [], 0
    for _ in range(repeats):
        _wait_for(device)
        begun = time.perf_counter()
        tokens = draw().numel()
        _wait_for(device)
        seconds.append(time.perf_counter() - begun)
    return {"tokens_per_second": tokens / statistics.median(seconds), "peak_memory_mb": peak_megabytes(device)}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_tokens_per_second(lines: Sequence[Mapping[str, float]], tokens: int) -> float | None:
    """Tokens that a training took per second, by the median over the stretches between two lines of its log.

    The stretch up to a session's first line, in which kernels are chosen and memory is had, is left out.

    Args:
        tokens: that a step takes.

    Returns:
        None if there is no such stretch.
    """
    found = [
        (later["step"] - earlier["step"]) * tokens / (later["seconds"] - earlier["seconds"])
        for earlier, later in pairwise(lines)
        if later["seconds"] > earlier["seconds"]  # each session's clock starts anew
    ]
    return round(statistics.median(found), 1) if found else None

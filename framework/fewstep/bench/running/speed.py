"""Speed of sampling and of training, and peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.runtime.memory import peak_megabytes, reset_peak


def time_drawing(draw: Callable[[], Tensor], device: torch.device, repeats: int) -> dict[str, float]:
    """Tokens per second, by the median of `repeats` draws, and the peak memory of the draws.

    Args:
        draw: returns samples, LongTensor [N, L]. It must have been called before, so that nothing warms up.
    """
    reset_peak(device)
    seconds, tokens = [], 0
    for _ in range(repeats):
        _wait_for(device)
        start = time.perf_counter()
        tokens = draw().numel()
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return {"tokens_per_second": tokens / statistics.median(seconds), "peak_memory_mb": peak_megabytes(device)}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_tokens_per_second(lines: Sequence[Mapping[str, float]], tokens: int) -> float | None:
    """Training speed in tokens per second, by the median over the intervals between two lines of the log.

    Leaves out the interval up to a session's first line, in which kernels are chosen and memory is allocated.

    Args:
        tokens: number of tokens of a step.

    Returns:
        None if there is no such interval.
    """
    rates = [
        (later["step"] - earlier["step"]) * tokens / (later["seconds"] - earlier["seconds"])
        for earlier, later in pairwise(lines)
        if later["seconds"] > earlier["seconds"]  # the clock of each session starts at 0
    ]
    return round(statistics.median(rates), 1) if rates else None

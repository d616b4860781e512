"""Distributions of (t, s): the start of a moment-matching step, and the time at which its result is compared.

Shapes: B batch. All times are float [B] in [0, 1], or of another shape that `Draw` returns for B draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

TimeLaw = Literal["uniform", "grid", "start", "independent", "same"]

Draw = Callable[[int], Tensor]
"""Number n -> n times ~ U(0, 1), or n rows of them."""


class StepTimes(NamedTuple):
    """The student predicts from z_t, teacher and auxiliary are compared at z_s, and the sampler's step ends at `end`.

    `end` is 1/k below t, and s lies between them. If s were `end`, the last step would never be compared, since no
    token is noise at 0. A student that is conditioned on its step gets `end`, as from a sampler, and not s.
    """

    t: Tensor
    s: Tensor
    end: Tensor


def draw_times(
    law: TimeLaw, count: int, k: int | tuple[int, int], min_time: float, draw: Draw, below_end: float = 0.0
) -> StepTimes:
    """Draw the times of steps, each [B].

    Args:
        law: "uniform": s ~ U(0, 1), t = min(1, s + U(0, 1/k)) (arXiv 2603.20155, Algorithm 1);
            "grid": t on the sampler's grid of k steps and s ~ U(t - 1/k, t), so that training and sampling use the
            same t; "start": t = 1, s ~ U(0, 1), for one-step generators (Di[M]O, arXiv 2503.15457), whose step ends
            at 0; "independent": t and s each ~ U(0, 1) (IDLM); "same": t = s ~ U(0, 1), for samples that are noised
            anew to the level that the student was given (IDLM's released code, whose two times are 0.002 apart).
        k: steps of the sampler that the student is for; a range (low, high) draws a number for each sample, uniform in
            the logarithm.
        min_time: smallest s; smaller times have almost no noise to learn from.
        draw: source of uniform numbers.
        below_end: share of draws whose s ~ U(min_time, end) in place of the law's; for "uniform" and "grid".
    """
    times = _of_law(law, count, _steps(count, k, draw), min_time, draw)
    if not below_end:
        return times
    t, s, end = times
    lower = min_time + (end - min_time) * draw(count)
    return StepTimes(t, torch.where((draw(count) < below_end) & (end > min_time), lower, s), end)


def _of_law(law: TimeLaw, count: int, steps: Tensor | int, min_time: float, draw: Draw) -> StepTimes:
    if law == "grid":
        t = ((draw(count) * steps).floor() + 1) / steps
        s = torch.minimum((t - draw(count) / steps).clamp(min_time, 1.0), t)
        return _step(t, s, steps)
    s = min_time + (1 - min_time) * draw(count)
    if law == "start":
        return _step(torch.ones_like(s), s, 1)
    if law == "same":
        return _step(s, s, steps)
    if law == "independent":
        return _step(min_time + (1 - min_time) * draw(count), s, steps)
    return _step((s + draw(count) / steps).clamp(max=1.0), s, steps)


def _step(t: Tensor, s: Tensor, steps: Tensor | int) -> StepTimes:
    return StepTimes(t, s, (t - 1 / steps).clamp_min(0.0))


def _steps(count: int, k: int | tuple[int, int], draw: Draw) -> Tensor | int:
    if isinstance(k, int):
        return k
    low, high = k
    exponent = draw(count) * math.log((high + 1) / low)
    return (low * exponent.exp()).floor().clamp(low, high)


def typical_steps(law: TimeLaw, k: int | tuple[int, int]) -> int:
    """The number of sampling steps that a student of this law is made for; the geometric mean of a range."""
    if law == "start":
        return 1
    return k if isinstance(k, int) else round(math.sqrt(k[0] * k[1]))

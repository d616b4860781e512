"""Where a moment-matching step begins and where its result is judged: laws of (t, s).

Shapes: B batch. All times are float [B] in [0, 1], or of another shape that `Draw` gives to B draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

TimeLaw = Literal["uniform", "grid", "start", "independent"]

Draw = Callable[[int], Tensor]
"""Number -> that many times ~ U(0, 1), or that many rows of them."""


class StepTimes(NamedTuple):
    """The student predicts from z_t, teacher and auxiliary judge z_s, and the sampler's step from t goes to `end`.

    s lies on the way to `end`, 1/k below t: at the end itself the last step would never be judged, since at 0 nothing
    is noise. A student that is told its step is told `end`, as a sampler tells it, and not where it is judged.
    """

    t: Tensor
    s: Tensor
    end: Tensor


def draw_times(law: TimeLaw, count: int, k: int | tuple[int, int], min_time: float, draw: Draw) -> StepTimes:
    """Draw the times of steps, each [B].

    Args:
        law: "uniform": s ~ U(0, 1), t = min(1, s + U(0, 1/k)) (arXiv 2603.20155, Algorithm 1);
            "grid": t on the sampler's own grid of k steps and s ~ U(t - 1/k, t), so that the student is trained
            where it will be sampled; "start": t = 1, s ~ U(0, 1), for one-step generators (Di[M]O, arXiv 2503.15457),
            whose step ends at 0; "independent": t and s each ~ U(0, 1) (IDLM).
        k: steps of the sampler that the student is for; a range (low, high) draws a number for each sample, uniform in
            the logarithm.
        min_time: smallest s, at which hardly a token is noise.
        draw: source of uniform numbers.
    """
    steps = _steps(count, k, draw)
    if law == "grid":
        t = ((draw(count) * steps).floor() + 1) / steps
        s = torch.minimum((t - draw(count) / steps).clamp(min_time, 1.0), t)
        return _step(t, s, steps)
    s = min_time + (1 - min_time) * draw(count)
    if law == "start":
        return _step(torch.ones_like(s), s, 1)
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
    """The sampling steps that a student of this law is made for; the middle of a range."""
    if law == "start":
        return 1
    return k if isinstance(k, int) else round(math.sqrt(k[0] * k[1]))

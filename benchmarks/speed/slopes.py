"""How the time of a step grows: slopes in log-log of sequence length, vocabulary, batch, depth and width.

Each slope is between neighbouring sizes, so that it is 1 where time is proportional to the size; its quartiles are over
the pairs. All else is `BASE`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from games import Size, game
from rows import Row, interleaved

BASE = Size(256, 128, 4, 128, 4)
SIZES = {
    "length": (128, 256, 512, 1024),
    "vocab": (256, 2048, 16_384, 50_257),
    "batch": (1, 2, 4, 8),
    "depth": (2, 4, 8),
    "width": (64, 128, 256, 512),
}
QUICK = {"length": (64, 256)}
WORK = {"denoising": {"type": "denoising"}, "dmmd": {"type": "dmmd"}}


def measure(quick: bool) -> Iterator[Row]:
    """Slopes of a step of denoising and of D-MMD, masked."""
    for axis, sizes in (QUICK if quick else SIZES).items():
        for name, settings in WORK.items():
            players = {str(size): game(settings, "masked", replace(BASE, **{axis: size})) for size in sizes}
            calls = {size: player.iteration for size, player in players.items()}
            times = {key: statistics.median(values) for key, values in interleaved(calls, 3).items()}
            slopes = [math.log(times[str(b)] / times[str(a)]) / math.log(b / a) for a, b in pairwise(sizes)]
            ends = f"{sizes[0]:,} to {sizes[-1]:,}"
            yield Row.of("slopes", f"{name} step by {axis}, {ends}", slopes, tolerance=0.5)

"""Conformance of step grids."""

from __future__ import annotations

from itertools import pairwise

from fewstep.core.registry import Raw
from fewstep.grids.base import GRIDS


def check_grid(config: Raw, *, most: int = 64) -> None:
    """Assert that a grid falls from 1 to 0 in any number of steps up to `most`.

    Raises:
        AssertionError: a check fails; the message names the number of steps.
    """
    grid = GRIDS.build(config)
    for steps in range(1, most + 1):
        times = grid.times(steps)
        assert len(times) == steps + 1, f"{len(times)} times for {steps} steps"
        assert (times[0], times[-1]) == (1.0, 0.0), f"{steps} steps go from {times[0]} to {times[-1]}"
        assert all(later < earlier for earlier, later in pairwise(times)), f"times of {steps} steps do not fall"

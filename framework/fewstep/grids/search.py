"""The cheapest walks through a matrix of step costs, for all numbers of steps in one pass.

Shapes: n times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cheapest_paths(cost: Tensor, steps: Sequence[int]) -> dict[int, list[int]]:
    """Cheapest walks from the first time to the last: indices of the times, by number of steps.

    C_k(j) = min_i C_{k-1}(i) + cost(i, j), the dynamic programme of arXiv 2106.03802.

    Args:
        cost: [n, n], infinite where there is no step.
        steps: numbers of steps, from 1 to n - 1.
    """
    best = torch.full((len(cost),), float("inf"), dtype=cost.dtype)
    best[0] = 0.0
    predecessors: list[Tensor] = []
    paths: dict[int, list[int]] = {}
    for count in range(1, max(steps) + 1):
        best, earlier = (best[:, None] + cost).min(0)
        predecessors.append(earlier)
        if count in steps:
            paths[count] = _trace_back(predecessors, len(cost) - 1)
    return paths


def path_cost(cost: Tensor, path: Sequence[int]) -> float:
    """Sum of the costs of a walk's steps."""
    return float(cost[list(path[:-1]), list(path[1:])].sum())


def _trace_back(predecessors: list[Tensor], last: int) -> list[int]:
    path = [last]
    for earlier in reversed(predecessors):
        path.append(int(earlier[path[-1]]))
    return path[::-1]

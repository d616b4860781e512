"""One number for a curve of quality over NFE, and the tokens that an evaluation gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

Points = Sequence[tuple[float, float]]
"""NFE and value of a model, at each number of steps."""


def common_range(curves: Sequence[Points]) -> tuple[float, float] | None:
    """The NFE that all curves of two points or more cover, lowest and highest; None if there is no such range."""
    spans = [(min(nfe), max(nfe)) for curve in curves if len(nfe := {nfe for nfe, _ in curve}) > 1]
    low, high = max((low for low, _ in spans), default=0.0), min((high for _, high in spans), default=0.0)
    return (low, high) if low < high else None


def mean_over_nfe(curve: Points, low: float, high: float) -> float | None:
    """Area under a curve over log NFE from `low` to `high`, divided by the width: a mean of the value.

    Between its points the curve is straight over log NFE, so that a doubling counts the same anywhere. None if it does
    not cover the range.
    """
    points = sorted((math.log(nfe), value) for nfe, value in curve)
    start, end = math.log(low), math.log(high)
    if len(points) < 2 or points[0][0] > start or points[-1][0] < end or start >= end:
        return None
    inside = [(x, y) for x, y in points if start < x < end]
    corners = [(start, _at(points, start)), *inside, (end, _at(points, end))]
    area = sum((right - left) * (a + b) / 2 for (left, a), (right, b) in pairwise(corners))
    return area / (end - start)


def _at(points: Points, x: float) -> float:
    """Value of a curve at x, straight between its points; at a point that is there twice, their mean."""
    same = [value for place, value in points if place == x]
    if same:
        return sum(same) / len(same)
    (left, a), (right, b) = next(pair for pair in pairwise(points) if pair[0][0] < x < pair[1][0])
    return a + (b - a) * (x - left) / (right - left)


def means_over_nfe(curves: Mapping[str, Points]) -> tuple[dict[str, float], tuple[float, float] | None]:
    """Mean of each model's value over the NFE that all models with a curve cover, and that range.

    A model with one NFE has no curve, and no mean.
    """
    span = common_range(list(curves.values()))
    if span is None:
        return {}, None
    means = {name: mean_over_nfe(curve, *span) for name, curve in curves.items()}
    return {name: mean for name, mean in means.items() if mean is not None}, span

"""Surfaces: the headline value over the values of recipe keys that a sweep took, its best point, and its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.bench.results.results import Estimate, Results, Summary
from fewstep.bench.results.summary import compare, difference, value_text
from fewstep.bench.suites.recipe_sweep import Point, point_text


@dataclass(frozen=True)
class SurfacePoint:
    """One training, or all its seeds: the values of the swept keys, and what was measured."""

    point: Point
    summary: Summary


@dataclass(frozen=True)
class Edge:
    """A swept key whose best value is the lowest or the highest that was tried."""

    key: str
    low: float
    high: float
    at_top: bool

    @property
    def text(self) -> str:
        side = "upper" if self.at_top else "lower"
        return f"{self.key} is at the {side} edge of its range ({self.low:g} to {self.high:g}); try values beyond it"


@dataclass(frozen=True)
class Surface:
    """The points of one case's sweep.

    Args:
        case: name in the suite's file.
        value: headline value, `direction` its better direction.
        points: all measured points, in the order of the suite.
    """

    case: str
    label: str
    value: str
    direction: str
    steps: int
    points: tuple[SurfacePoint, ...]

    @property
    def keys(self) -> list[str]:
        return list(self.points[0].point)

    @property
    def best(self) -> SurfacePoint:
        sign = 1 if self.direction == "lower" else -1
        return min(self.points, key=lambda entry: sign * self.estimate(entry).mean)

    @property
    def level(self) -> list[SurfacePoint]:
        """The points that are not significantly worse than the best, which is one of them."""
        top = self.best.summary

        def is_level(entry: SurfacePoint) -> bool:
            gap, error = difference(entry.summary, top, self.value)
            return compare(gap, error or 0.0, self.direction) != "worse"

        return [entry for entry in self.points if entry is self.best or is_level(entry)]

    @property
    def edges(self) -> list[Edge]:
        """Keys with numbers whose best value lies at an end of those tried."""
        edges = []
        for key in self.keys:
            numbers = self.numbers(key)
            if numbers is None or len(set(numbers)) < 2:
                continue
            low, high, best = min(numbers), max(numbers), _number(self.best.point[key])
            if best in (low, high):
                edges.append(Edge(key, low, high, best == high))
        return edges

    def estimate(self, entry: SurfacePoint) -> Estimate:
        """The headline value of a point."""
        return entry.summary.values[self.value]

    def numbers(self, key: str) -> list[float] | None:
        """The values of a key at all points; None if they are not all numbers."""
        values = [_number(entry.point[key]) for entry in self.points]
        return None if None in values else [value for value in values if value is not None]

    def sentence(self, results: Results) -> str:
        """The best point, whether it stands out, and the edges that it lies at."""
        best, level, others = self.best, len(self.level) - 1, len(self.points) - 1
        text = value_text(best.summary.values, self.value, results.beside)
        parts = [f"Best of {self.case} at {self.steps} steps: {point_text(best.point)} with {self.value} {text}"]
        if level:
            parts.append(f"{level} of the other {others} points {'are' if level > 1 else 'is'} not significantly worse")
        parts += [edge.text for edge in self.edges]
        unmeasured = _missing(results, self.case) - len(self.points)
        parts += [f"{unmeasured} points were not measured"] if unmeasured > 0 else []
        return "; ".join(parts) + "."


def surfaces(results: Results) -> list[Surface]:
    """The surface of each swept case, of the points that were measured."""
    groups: dict[str, list[SurfacePoint]] = {}
    places = {case.name: case.swept for case in results.cases if case.swept}
    for name, place in places.items():
        summary = results.find(name, place.steps)
        if summary is not None and results.headline in summary.values:
            groups.setdefault(place.case, []).append(SurfacePoint(place.point, summary))
    by_case = {place.case: place for place in places.values()}
    return [
        Surface(case, by_case[case].label, results.headline, results.direction, by_case[case].steps, tuple(points))
        for case, points in groups.items()
    ]


def sentences(results: Results) -> list[str]:
    """One sentence for each sweep."""
    return [surface.sentence(results) for surface in surfaces(results)]


def distinct(values: Sequence[object]) -> list[object]:
    """Different values in order: numbers by size, others as they come."""
    values = list(dict.fromkeys(values))
    numbers = [_number(value) for value in values]
    if None in numbers:
        return values
    return sorted(values, key=lambda value: _number(value) or 0.0)


def _missing(results: Results, case: str) -> int:
    """Points of a case's sweep that the results know of."""
    return len({entry.name for entry in results.cases if entry.swept and entry.swept.case == case})


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

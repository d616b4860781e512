"""Plot of frontiers: quality against diversity over values of a sampler's setting, one curve for each case and setting.

A curve nearer to the real samples is better at every value. Two single points of two models say less, since each could
be moved along its own curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fewstep.bench.report.canvas import DASHES, GREY, Style, begin, dress, in_words, save, styles
from fewstep.bench.report.tables import REAL
from fewstep.bench.results.results import FrontierPoint, Results
from fewstep.bench.suites.suite import REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

_ANNOTATED = 4
"""Largest number of curves with labels at every point; more curves have labels only at their ends."""


class Point(NamedTuple):
    """A point of a curve: diversity, headline value, their standard errors, and the swept value."""

    x: float
    y: float
    dx: float
    dy: float
    value: float


Corner = tuple[float, float]


def draw_frontier_plot(results: Results, path: Path) -> Path:
    """Write the plot of the frontiers."""
    return save(frontier_figure(results), path)


def frontier_figure(results: Results) -> Figure:
    """One curve for each case and setting, in a band of one standard error in both directions."""
    looks, curves = styles(results), _curves(results)
    settings = list(dict.fromkeys(key for _, key in curves))
    figure, (axes,) = begin(5.6)
    for (name, key), points in curves.items():
        label = f"{looks[name].label}, {points[0].nfe:g} NFE" + (f", {key}" if len(settings) > 1 else "")
        look = looks[name]._replace(label=label, linestyle=DASHES[settings.index(key) % len(DASHES)])
        _curve(axes, [_point(results, point) for point in points], look, annotate=len(curves) <= _ANNOTATED)
    real = results.find(REFERENCE, None)
    points_in_view = [*results.frontier]
    if real and {str(results.diversity), results.headline} <= real.values.keys():
        x, y = (real.values[value].mean for value in (str(results.diversity), results.headline))
        axes.plot([x], [y], linestyle="none", marker="*", markersize=15, color=GREY, label=REAL)
        points_in_view = [*points_in_view, FrontierPoint(**real.model_dump(), sweep={})]
    name, way = str(results.diversity), {"lower": ", lower is better", "higher": ", higher is better", "info": ""}
    labels = f"; labels of points are values of {settings[0]}" if len(settings) == 1 else ""
    axes.set_xlabel(f"{in_words(name)}\n{name}{way[results.directions[name]]}{labels}", fontsize=11)
    in_view = results.model_copy(update={"summary": tuple(points_in_view)})
    return dress(figure, axes, axes.yaxis, in_view, results.suite.title)


def _curves(results: Results) -> dict[tuple[str, str], list[FrontierPoint]]:
    """Points of each case and setting, by value."""
    curves: dict[tuple[str, str], list[FrontierPoint]] = {}
    for point in results.frontier:
        (key,) = point.sweep
        curves.setdefault((point.case, key), []).append(point)
    return {curve: sorted(points, key=lambda point: [*point.sweep.values()]) for curve, points in curves.items()}


def _curve(axes: Axes, points: Sequence[Point], look: Style, *, annotate: bool) -> None:
    """A curve, its band, and the labels of its points."""
    axes.add_patch(_patch(band(points), look.color))
    axes.plot([point.x for point in points], [point.y for point in points], linewidth=1.6, markersize=6.5, **look.line)
    for index, point in enumerate(points):
        if annotate or index in (0, len(points) - 1):
            text, place = f"{point.value:g}", (point.x, point.y)
            axes.annotate(text, place, (5, 5), textcoords="offset points", fontsize=8, color=look.color)


def _point(results: Results, point: FrontierPoint) -> Point:
    x, y = point.values[str(results.diversity)], point.values[results.headline]
    (value,) = point.sweep.values()
    return Point(x.mean, y.mean, x.stderr or 0.0, y.stderr or 0.0, value)


def band(points: Sequence[Point]) -> list[list[Corner]]:
    """Polygons, all in the same sense of rotation, that cover a curve and one standard error around it.

    A rectangle around every point, and the hexagon of the outer corners between two points. They are flat without
    standard errors.
    """
    boxes = [(p.x - p.dx, p.y - p.dy, p.x + p.dx, p.y + p.dy) for p in points]
    polygons = [[(left, low), (right, low), (right, high), (left, high)] for left, low, right, high in boxes]
    for first, second in pairwise(boxes):
        a, b = (first, second) if first[0] + first[2] <= second[0] + second[2] else (second, first)
        if a[1] + a[3] <= b[1] + b[3]:  # upwards to the right
            corners = [(a[0], a[1]), (a[2], a[1]), (b[2], b[1]), (b[2], b[3]), (b[0], b[3]), (a[0], a[3])]
        else:
            corners = [(a[0], a[1]), (b[0], b[1]), (b[2], b[1]), (b[2], b[3]), (a[2], a[3]), (a[0], a[3])]
        polygons.append(corners)
    return polygons


def _patch(polygons: Sequence[Sequence[Corner]], color: str) -> PathPatch:
    """All polygons as one patch, so that overlaps are not darker."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    outline = Outline.make_compound_path(*(Outline([*polygon, polygon[0]], closed=True) for polygon in polygons))
    return PathPatch(outline, facecolor=color, alpha=0.16, linewidth=0)

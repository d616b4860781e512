"""Plot of quality by diversity. A model that repeats a few good samples lies far to one side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.bench.report.canvas import GREY, Style, begin, dress, in_words, save, styles
from fewstep.bench.report.tables import REAL
from fewstep.bench.results.results import Estimate, Results
from fewstep.bench.suites.suite import REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ANNOTATED = 4
"""Largest number of cases with labels of NFE at every point; more labels would overlap."""
_MOST = 0.9
"""Fraction of the points that counts as most of them."""
_CROWDED = 0.35
"""Largest fraction of the axis that gets an enlarged panel if most points lie within it."""


def draw_diversity_plot(results: Results, path: Path) -> Path:
    """Write the plot of the headline value against the suite's value of diversity."""
    return save(diversity_figure(results), path)


def diversity_figure(results: Results) -> Figure:
    """One line a case through its NFEs. The dots grow with NFE.

    If a few distant points compress the others, a second panel enlarges the interval with most of the points.
    """
    assert results.diversity is not None
    looks = styles(results)
    xs = [point[0] for name in looks for point in _points(results, name)]
    real = results.find(REFERENCE, None)
    values: dict[str, Estimate] = real.values if real else {}
    if results.diversity in values:
        xs.append(values[results.diversity].mean)
    interval = dense_interval(xs)
    figure, panels = begin(5.4, columns=(1, 2) if interval else (1,))
    for axes in panels:
        for name, look in looks.items():
            _line(axes, results, name, look, annotate=len(looks) <= _ANNOTATED)
        if {results.diversity, results.headline} <= values.keys():
            x, y = (values[value].mean for value in (results.diversity, results.headline))
            axes.plot([x], [y], linestyle="none", marker="*", markersize=15, color=GREY, label=REAL)
    if interval:
        _enlarge(panels, interval)
    (figure.supxlabel if interval else panels[0].set_xlabel)(_axis_label(results), fontsize=11)
    return dress(figure, panels[0], panels[0].yaxis, results, results.suite.title)


def dense_interval(xs: list[float]) -> tuple[float, float] | None:
    """Shortest interval with most of the points, if it is a small part of the interval of all; else None."""
    xs = sorted(xs)
    count = int(_MOST * len(xs))
    if count < 3:
        return None
    low, high = min(((xs[i], xs[i + count - 1]) for i in range(len(xs) - count + 1)), key=lambda s: s[1] - s[0])
    margin = 0.35 * (high - low)
    near = [x for x in xs if low - margin <= x <= high + margin]
    low, high = min(near), max(near)
    return (low, high) if 0 < high - low < _CROWDED * (xs[-1] - xs[0]) else None


def _points(results: Results, name: str) -> list[tuple[float, float, float]]:
    """Diversity, headline value and NFE of a case's rows, by NFE."""
    rows = [s for s in results.summary if s.case == name]
    points = [(s.values[str(results.diversity)].mean, s.values[results.headline].mean, s.nfe or 0) for s in rows]
    return sorted(points, key=lambda point: point[2])


def _line(axes: Axes, results: Results, name: str, look: Style, *, annotate: bool) -> None:
    """A case's points, each with its NFE as a label or as its size."""
    points = _points(results, name)
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    axes.plot(xs, ys, linewidth=1.2, markersize=6.5, **{**look.line, "marker": "none"})
    axes.lines[-1].set_label("_")
    for x, y, nfe in points:
        size = 4.0 + 1.1 * math.log2(max(1.0, nfe))
        axes.plot([x], [y], **{**look.line, "linestyle": "none", "label": "_"}, markersize=min(size, 12.0))
        if annotate:
            axes.annotate(f"{nfe:g}", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.plot([], [], linewidth=1.2, markersize=7, **look.line)


def _enlarge(panels: list[Axes], interval: tuple[float, float]) -> None:
    """Shade an interval of the first panel, and show it in the second."""
    margin = 0.06 * (interval[1] - interval[0])
    low, high = interval[0] - margin, interval[1] + margin
    panels[0].axvspan(low, high, color="#e8e8e8", linewidth=0, zorder=0)
    panels[1].set_xlim(low, high)
    panels[0].set_title("all", fontsize=10, loc="left")
    panels[1].set_title("shaded interval, enlarged", fontsize=10, loc="left")
    panels[1].tick_params(labelleft=False)
    for axes, ticks in zip(panels, (4, 7), strict=True):
        axes.locator_params(axis="x", nbins=ticks)


def _axis_label(results: Results) -> str:
    """Label of the horizontal axis, with the meaning of the size of dots."""
    counts = sorted({s.nfe for s in results.summary if s.nfe})
    sizes = f"; dots grow with NFE, {counts[0]:g} to {counts[-1]:g}" if len(counts) > 1 else ""
    return f"{in_words(str(results.diversity))}\n{results.diversity}{sizes}"

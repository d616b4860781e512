"""Plot of quality by evaluations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.bench.report.canvas import COLOURS, GREY, MARKERS, Style, begin, dress, save, styles, wrapped
from fewstep.bench.report.finding import draw_bar, finding
from fewstep.bench.report.tables import REAL
from fewstep.bench.results.results import Estimate, Results
from fewstep.bench.suites.suite import REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LINES = 16
"""Largest number of cases that are lines; more cases are rows of dots."""
_FEW_LINES = 7
"""Largest number of lines whose points of one NFE share their place; points of more lines would hide each other."""
_SPREAD = 0.3
"""Doublings of NFE over which the points of one NFE are spread for more lines."""
_ROW_WRAP = 32
"""Characters in a line of a row's label."""
_TITLE_WRAP = 100
"""Characters in a line of the suite's title."""
_TICK_GAP = 0.5
"""Smallest distance of two ticks of NFE, in doublings."""


def draw_plot(results: Results, path: Path) -> Path:
    """Write the plot of the headline value against NFE."""
    return save(quality_figure(results), path)


def quality_figure(results: Results) -> Figure:
    """The headline value against NFE: one line a case in a band of one standard error, and the value of real samples.

    The title is the first expectation of the suite as it came out. Too many cases to distinguish as lines are rows of
    dots, one dot for each NFE, below the suite's title.
    """
    looks = styles(results)
    many = len(looks) > _MOST_LINES
    rows = sum(1 + wrapped(look.label, _ROW_WRAP).count("\n") for look in looks.values())
    figure, (axes,) = begin(1.9 + 0.2 * rows + 0.08 * len(looks) if many else 5)
    real, found = results.find(REFERENCE, None), None if many else finding(results)
    if many:
        _dots(axes, results, looks)
    else:
        crowded = len(looks) > _FEW_LINES
        for index, (name, look) in enumerate(looks.items()):
            _line(axes, results, name, look, offset=(index / (len(looks) - 1) - 0.5) * _SPREAD if crowded else 0.0)
        _nfe_axis(axes, results, spread=crowded)
        if found is not None:
            draw_bar(axes, results, found)
    if real and results.headline in real.values:
        level = (axes.axvline if many else axes.axhline)(real.values[results.headline].mean)
        level.set(color=GREY, linestyle=":", linewidth=1.6, label=REAL)
    if found is not None:
        axes.set_title(wrapped(results.suite.title, _TITLE_WRAP), fontsize=10, color=GREY, loc="left")
    title = found.title(results) if found is not None else results.suite.title
    return dress(figure, axes, axes.xaxis if many else axes.yaxis, results, title)


def _line(axes: Axes, results: Results, name: str, look: Style, *, offset: float) -> None:
    """A case's line and band, `offset` doublings to the right. A single point has error bars in the place of a band."""
    points = sorted(((s.nfe or 0, s.values[results.headline]) for s in results.summary if s.case == name), key=_nfe)
    counts, means = [nfe * 2**offset for nfe, _ in points], [value.mean for _, value in points]
    errors = [value.stderr or 0.0 for _, value in points]
    single = len(points) == 1
    if single:
        axes.errorbar(counts, means, yerr=errors, color=look.color, linestyle="none", capsize=4, linewidth=1.4)
    else:
        low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(counts, low, high, color=look.color, alpha=0.16, linewidth=0)
    width, size = (1.4, 6.5) if offset else (2.0, 7.5)
    axes.plot(counts, means, linewidth=width, markersize=size, zorder=4 if single else 3, **look.line)


def _nfe(point: tuple[float, Estimate]) -> float:
    return point[0]


def _dots(axes: Axes, results: Results, looks: dict[str, Style]) -> None:
    """A row for each case, from the top down, with a dot for each NFE. NFEs up to the same power of 2 share a style.

    Samplers that evaluate part of a batch have fractional NFEs, which are more than the colours.
    """
    names = list(looks)
    points = [(s, 2 ** math.ceil(math.log2(s.nfe))) for s in results.summary if s.nfe]
    for index, most in enumerate(sorted({most for _, most in points})):
        places = [(names.index(s.case), s.values[results.headline]) for s, count in points if count == most]
        axes.errorbar(
            [value.mean for _, value in places],
            [row for row, _ in places],
            xerr=[value.stderr or 0.0 for _, value in places],
            label=f"{most} NFE" if all(s.nfe == most for s, count in points if count == most) else f"to {most} NFE",
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle="none",
            markersize=6,
            capsize=3,
        )
    axes.set_yticks(range(len(names)), [wrapped(look.label, _ROW_WRAP) for look in looks.values()])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _nfe_axis(axes: Axes, results: Results, *, spread: bool) -> None:
    """The horizontal axis of a plot of lines."""
    from matplotlib.ticker import NullLocator

    counts = nfe_ticks({s.nfe for s in results.summary if s.nfe})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    note = "; points of one NFE stand side by side" if spread else ""
    axes.set_xlabel(f"network evaluations for each sample (NFE){note}", fontsize=11)


def nfe_ticks(counts: set[float]) -> list[float]:
    """The counts whose labels do not overlap; powers of two take precedence."""
    ticks: list[float] = []
    for count in sorted(counts, key=lambda n: (not math.log2(n).is_integer(), n)):
        if all(abs(math.log2(count / other)) >= _TICK_GAP for other in ticks):
            ticks.append(count)
    return sorted(ticks)

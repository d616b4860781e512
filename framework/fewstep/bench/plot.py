"""Quality by evaluations as one picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fewstep.bench.results import Results
from fewstep.bench.suite import REFERENCE
from fewstep.bench.tables import REAL

# Okabe and Ito's palette without its yellow; shapes and dashes tell lines apart where colours do not.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LOG_SPAN = 8.0
"""Ratio of the largest to the smallest value from which on the vertical axis is logarithmic."""


def draw_plot(results: Results, path: Path) -> Path:
    """Write the headline value against NFE, one line a case, with error bars and the level of real samples.

    More cases than lines that can be told apart are rows of dots, one for each NFE.
    """
    names = list(dict.fromkeys(s.case for s in results.summary if s.case != REFERENCE))
    many = len(names) > len(COLOURS)
    figure, axes = begin(1.8 + 0.27 * len(names) if many else 5)
    real = results.find(REFERENCE, None)
    if many:
        _dots(axes, results, names)
    else:
        for index, name in enumerate(names):
            _line(axes, results, name, index)
    if real and results.headline in real.values:
        level = (axes.axvline if many else axes.axhline)(real.values[results.headline].mean)
        level.set(color="#555555", linestyle=":", linewidth=1.6, label=REAL)
    if not many:
        _nfe_axis(axes, results)
    return finish(figure, axes, axes.xaxis if many else axes.yaxis, results, path)


def begin(height: float) -> tuple[Any, Any]:
    """An empty picture of so many inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def finish(figure: Any, axes: Any, value_axis: Any, results: Results, path: Path) -> Path:
    """What all pictures share: the axis of the headline value, title, grid and legend; writes the file."""
    _value_axis(axes, results, value_axis)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == REAL)
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=_columns(labels),
        frameon=False,
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _columns(labels: list[str]) -> int:
    """As many of the legend's entries as fit beside each other."""
    return max(1, min(len(labels), 96 // (max(map(len, labels), default=0) + 8)))


def _line(axes: Any, results: Results, name: str, index: int) -> None:
    case = results.case(name)
    points = sorted((s.nfe or 0, s.values[results.headline]) for s in results.summary if s.case == name)
    axes.errorbar(
        [nfe for nfe, _ in points],
        [value.mean for _, value in points],
        yerr=[value.stderr or 0.0 for _, value in points],
        label=case.label if case else name,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        linestyle="--" if case and case.oracle else "-",
        linewidth=2,
        markersize=7,
        capsize=4,
    )


def _dots(axes: Any, results: Results, names: list[str]) -> None:
    """A row for each case, from the top down, with a dot for each NFE; dots are alike from one power of 2 to the next.

    (A sampler that asks for part of a batch has an NFE of its own, and there are not so many colours.)
    """
    points = [(s, 2 ** math.ceil(math.log2(s.nfe))) for s in results.summary if s.nfe]
    for index, most in enumerate(sorted({most for _, most in points})):
        here = [(names.index(s.case), s.values[results.headline]) for s, count in points if count == most]
        axes.errorbar(
            [value.mean for _, value in here],
            [row for row, _ in here],
            xerr=[value.stderr or 0.0 for _, value in here],
            label=f"{most} NFE" if all(s.nfe == most for s, count in points if count == most) else f"to {most} NFE",
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle="none",
            markersize=6,
            capsize=3,
        )
    labels = [case.label if (case := results.case(name)) else name for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _nfe_axis(axes: Any, results: Results) -> None:
    """The horizontal axis of lines."""
    from matplotlib.ticker import NullLocator

    counts = sorted({s.nfe for s in results.summary if s.nfe})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("network evaluations for each sample (NFE)", fontsize=11)


def _value_axis(axes: Any, results: Results, axis: Any) -> None:
    """Scale, ticks and label of the values, and what belongs to the whole picture."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    means = [s.values[results.headline].mean for s in results.summary if results.headline in s.values]
    if means and min(means) > 0 and max(means) / min(means) > _LOG_SPAN:
        (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_label_text(f"{results.headline} ({results.direction} is better)", fontsize=11)
    axes.set_title(results.suite.title, fontsize=13, loc="left")
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

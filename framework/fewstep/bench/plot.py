"""Quality by evaluations as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.bench.results import Results
from fewstep.bench.suite import REFERENCE
from fewstep.bench.tables import REAL

# Okabe and Ito's palette without its yellow; shapes and dashes tell lines apart where colours do not.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LOG_SPAN = 8.0
"""Ratio of the largest to the smallest value from which on the vertical axis is logarithmic."""


def draw_plot(results: Results, path: Path) -> Path:
    """Write the headline value against NFE, one line a case, with error bars and the level of real samples."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(s.case for s in results.summary if s.case != REFERENCE))
    for index, name in enumerate(names):
        _line(axes, results, name, index)
    real = results.find(REFERENCE, None)
    if real:
        level = real.values[results.headline].mean
        axes.axhline(level, color="#555555", linestyle=":", linewidth=1.6, label=REAL)
    _axes(axes, results)
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
        color=_COLOURS[index % len(_COLOURS)],
        marker=_MARKERS[index % len(_MARKERS)],
        linestyle="--" if case and case.oracle else "-",
        linewidth=2,
        markersize=7,
        capsize=4,
    )


def _axes(axes: Any, results: Results) -> None:
    """Scales, ticks and labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    counts = sorted({s.nfe for s in results.summary if s.nfe})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    means = [s.values[results.headline].mean for s in results.summary]
    if means and min(means) > 0 and max(means) / min(means) > _LOG_SPAN:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("network evaluations for each sample (NFE)", fontsize=11)
    axes.set_ylabel(f"{results.headline} ({results.direction} is better)", fontsize=11)
    axes.set_title(results.suite.title, fontsize=13, loc="left")
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

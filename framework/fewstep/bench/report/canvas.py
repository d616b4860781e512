"""Common parts of all plots of results: size, colours and shapes of cases, title, axis of values, legend."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewstep.bench.report.tables import REAL
from fewstep.bench.results.results import Results
from fewstep.bench.suites.suite import REFERENCE
from fewstep.metrics.base import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, then darker colours of Tol's. Shapes and dashes distinguish lines of
# similar colours. 13 colours and 12 shapes have no common divisor, so a pair repeats only after 156 cases.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
    *("#882255", "#7A7A00", "#8C564B", "#5F4BB6", "#EE8080", "#0B5345"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "d")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
"""One for each family of cases: a teacher, and all cases that learn from it or sample it again."""
ORACLE: Any = (0, (3, 2))

GREY = "#555555"
DOTS = 150
"""Pixels per inch."""
_ROWS_BELOW = 2
"""Largest number of rows of a legend below the plot; a longer legend stands to its right."""
_WRAP = 27
"""Characters in a line of the legend."""
_LOG_SPAN = 8.0
"""Ratio of the largest to the smallest value above which the axis of values is logarithmic."""
_FEW_TICKS = 300.0
"""Ratio above which powers of ten are enough ticks."""


class Style(NamedTuple):
    """Look of a case's line."""

    label: str
    color: str
    marker: str
    linestyle: Any

    @property
    def line(self) -> dict[str, Any]:
        """The style as keywords of matplotlib."""
        return {**self._asdict(), "label": wrapped(self.label), "markeredgecolor": "white", "markeredgewidth": 0.5}


def styles(results: Results) -> dict[str, Style]:
    """A style for each measured case, in order. Each family has its own dashes."""
    names = dict.fromkeys(s.case for s in results.summary if s.case != REFERENCE)
    cases = {name: results.case(name) for name in names}
    families = list(dict.fromkeys(_root(results, name) for name, case in cases.items() if not (case and case.oracle)))
    by_case = {}
    for index, (name, case) in enumerate(cases.items()):
        oracle = case is not None and case.oracle
        dashes = ORACLE if oracle else DASHES[families.index(_root(results, name)) % len(DASHES)]
        label = case.label if case else name
        by_case[name] = Style(label, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], dashes)
    return by_case


def _root(results: Results, name: str) -> str:
    """First case of a family; empty for a case without relatives or results, which all form one family."""
    visited = {name}
    while (case := results.case(name)) and (origin := case.teacher or case.model) and origin not in visited:
        visited.add(origin)
        name = origin
    alone = not any(name in (case.teacher, case.model) for case in results.cases)
    return "" if alone else name


def begin(height: float, *, columns: Iterable[float] = (1,), width: float = 8.0) -> tuple[Figure, list[Axes]]:
    """An empty picture, width by height in inches, and its axes, one for each relative width of `columns`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = list(columns)
    axes = figure.subplots(1, len(ratios), sharey=True, width_ratios=ratios, squeeze=False)[0]
    return figure, list(axes)


def dress(figure: Figure, axes: Axes, value_axis: Axis, results: Results, title: str) -> Figure:
    """Add the axis of the headline value, title, grid and legend. Returns the figure.

    Args:
        axes: the first axes of the figure.
        value_axis: the axis of `axes` with the headline value.
    """
    from matplotlib.text import Text

    _scale_values(axes, value_axis, _means(results, results.headline))
    name = in_words(results.headline)
    value_axis.set_label_text(f"{name}\n{results.headline}, {results.direction} is better", fontsize=11)
    for panel in figure.axes:
        panel.grid(True, color="#dddddd", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    width = figure.get_figwidth()  # without a legend to the right, which the title would run into
    _legend(figure, axes)
    figure.suptitle(textwrap.fill(title, int(9 * width)), fontsize=13, x=0.012, ha="left")
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a label may say "$5" or "a_$b$"
    return figure


def in_words(value: str) -> str:
    """What a value is, for readers who know no metric by its name; the name where no metric says it."""
    classes = (entry.cls for entry in METRICS.entries())
    return next((cls.words[value] for cls in classes if value in cls.words), value)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def wrapped(label: str, width: int = _WRAP) -> str:
    """A label, over several lines if it is long."""
    return textwrap.fill(label, width, break_long_words=len(label.split()) == 1)


def _means(results: Results, name: str) -> list[float]:
    return [s.values[name].mean for s in results.summary if name in s.values]


def _scale_values(axes: Axes, axis: Axis, means: list[float]) -> None:
    """Make the axis logarithmic, with plain numbers at its ticks, if the values span a large ratio."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not means or min(means) <= 0 or max(means) / min(means) <= _LOG_SPAN:
        return
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    sparse = max(means) / min(means) > _FEW_TICKS
    axis.set_major_locator(LogLocator(subs=(1.0,) if sparse else (1.0, 2.0, 5.0), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(figure: Figure, axes: Axes) -> None:
    """Legend below the axes if it is short, else in a column to their right. The figure grows by its size."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == REAL)
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    columns = _columns(labels)
    below = len(labels) <= _ROWS_BELOW * columns
    figure.legend(
        handles,
        labels,
        loc="outside lower center" if below else "outside right upper",
        ncols=columns if below else 1,
        frameon=False,
        fontsize=10,
        handlelength=3.2,
        labelspacing=0.5 if below else 0.75,
    )
    width, height = figure.get_size_inches()
    lines = [label.count("\n") + 1 for label in labels]
    if below:
        figure.set_figheight(height + 0.2 * (max(lines, default=1) * math.ceil(len(labels) / columns) - 1))
        return
    # At this size a character is about 0.08 inches wide; a handle with its margins is about one inch wide.
    figure.set_figwidth(width + 0.9 + 0.078 * max(len(line) for label in labels for line in label.split("\n")))
    figure.set_figheight(max(height, 0.8 + 0.17 * sum(lines) + 0.11 * len(labels)))


def _columns(labels: list[str]) -> int:
    """Number of legend entries that fit beside each other."""
    longest = max((len(row) for label in labels for row in label.split("\n")), default=0)
    return max(1, min(len(labels), 92 // (longest + 8)))

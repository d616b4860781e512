"""Plot of a sweep of recipe keys: a line over one key, a heat map over two, and a panel for each of more.

Random points of two keys are coloured dots, since most cells of a heat map would be empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.bench.report.canvas import COLOURS, GREY, begin, in_words, save, wrapped
from fewstep.bench.report.tables import REAL
from fewstep.bench.results.results import Results
from fewstep.bench.results.surfaces import Surface, SurfacePoint, distinct
from fewstep.bench.suites.recipe_sweep import point_text, value_text
from fewstep.bench.suites.suite import REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_LOG_SPAN = 8.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
_BEST: dict[str, Any] = {
    "marker": "*",
    "markersize": 19,
    "color": COLOURS[1],
    "markeredgecolor": "white",
    "linestyle": "none",
}


def draw_surface(results: Results, surface: Surface, path: Path) -> Path:
    """Write the plot of one sweep."""
    return save(surface_figure(results, surface), path)


def surface_figure(results: Results, surface: Surface) -> Figure:
    """A line, a heat map, or several panels; a star marks the best point."""
    from matplotlib.text import Text

    if len(surface.keys) == 2:
        figure, (axes,) = begin(5.0)
        (_dots if _is_sparse(surface) else _heat)(figure, axes, surface)
    else:
        figure, panels = begin(4.6, columns=[1] * len(surface.keys), width=max(8.0, 3.2 * len(surface.keys)))
        for axes, key in zip(panels, surface.keys, strict=True):
            _line(axes, results, surface, key)
        panels[0].set_ylabel(_value_label(surface), fontsize=11)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    title = f"{surface.label} at {surface.steps} steps is best with {point_text(surface.best.point)}"
    figure.suptitle(wrapped(title, int(9 * figure.get_figwidth())), fontsize=13, x=0.012, ha="left")
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


def _line(axes: Axes, results: Results, surface: Surface, key: str) -> None:
    """The value over one key. With several keys each point is a dot, since others differ too."""
    numbers, single = surface.numbers(key), len(surface.keys) == 1
    levels = distinct([entry.point[key] for entry in surface.points])
    places = numbers or [float(levels.index(entry.point[key])) for entry in surface.points]
    order = sorted(range(len(places)), key=places.__getitem__)
    estimates = [surface.estimate(surface.points[index]) for index in order]
    axes.errorbar(
        [places[index] for index in order],
        [estimate.mean for estimate in estimates],
        yerr=[estimate.stderr or 0.0 for estimate in estimates],
        color=COLOURS[0],
        marker="o",
        markersize=7,
        linewidth=2.0,
        linestyle="-" if single and numbers else "none",
        capsize=4,
        label=surface.label if single else "a training",
    )
    best = surface.points.index(surface.best)
    axes.plot([places[best]], [surface.estimate(surface.best).mean], zorder=5, label="best", **_BEST)
    real = results.find(REFERENCE, None)
    if real and surface.value in real.values:
        axes.axhline(real.values[surface.value].mean, color=GREY, linestyle=":", linewidth=1.6, label=REAL)
    if numbers is None:
        axes.set_xticks(range(len(levels)), [value_text(level) for level in levels])  # type: ignore[arg-type]
    elif _spans(numbers):
        _log(axes, sorted(set(numbers)))
    elif len(levels) <= 8:
        axes.set_xticks(sorted(set(numbers)), [f"{number:g}" for number in sorted(set(numbers))])
    axes.set_xlabel(key, fontsize=11)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _log(axes: Axes, numbers: list[float]) -> None:
    """A logarithmic axis with plain numbers, at most eight of them."""
    from matplotlib.ticker import NullLocator

    ticks = numbers[:: -(-len(numbers) // 8)]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _heat(figure: Figure, axes: Axes, surface: Surface) -> None:
    """A cell for each pair of values; pairs that were not tried stay empty."""
    across, up = surface.keys
    columns, rows = (distinct([entry.point[key] for entry in surface.points]) for key in (across, up))
    cells = {(columns.index(entry.point[across]), rows.index(entry.point[up])): entry for entry in surface.points}
    values = [[_mean(surface, cells.get((x, y))) for x in range(len(columns))] for y in range(len(rows))]
    colours = "viridis_r" if surface.direction == "lower" else "viridis"
    image = axes.imshow(values, origin="lower", aspect="auto", cmap=colours)
    middle = sum(image.get_clim()) / 2
    if len(columns) * len(rows) <= 64:
        for (x, y), entry in cells.items():
            mean = surface.estimate(entry).mean
            dark = (mean > middle) == (surface.direction == "lower")
            star = "★ " if entry is surface.best else ""
            weight = "bold" if entry is surface.best else "normal"
            colour = "white" if dark else "black"
            axes.text(x, y, f"{star}{mean:.3g}", ha="center", va="center", color=colour, fontsize=10, weight=weight)
    else:
        x, y = next(place for place, entry in cells.items() if entry is surface.best)
        axes.plot([x], [y], **_BEST)
    axes.set_xticks(range(len(columns)), [value_text(value) for value in columns])  # type: ignore[arg-type]
    axes.set_yticks(range(len(rows)), [value_text(value) for value in rows])  # type: ignore[arg-type]
    axes.set_xlabel(across, fontsize=11)
    axes.set_ylabel(up, fontsize=11)
    figure.colorbar(image, ax=axes, label=f"{_value_label(surface)}; ★ best")


def _is_sparse(surface: Surface) -> bool:
    """Whether most pairs of values of two keys were not tried, and both are numbers."""
    numbers = [surface.numbers(key) for key in surface.keys]
    if None in numbers:
        return False
    across, up = (len(set(values or ())) for values in numbers)
    return len(surface.points) < across * up / 2


def _dots(figure: Figure, axes: Axes, surface: Surface) -> None:
    """A dot for each pair of numbers, coloured and labelled by its value."""
    (across, up), means = surface.keys, [surface.estimate(entry).mean for entry in surface.points]
    xs, ys = surface.numbers(across) or [], surface.numbers(up) or []
    colours = "viridis_r" if surface.direction == "lower" else "viridis"
    dots = axes.scatter(xs, ys, c=means, cmap=colours, s=170, edgecolors=GREY, zorder=3)
    for x, y, mean, entry in zip(xs, ys, means, surface.points, strict=True):
        star = "★ " if entry is surface.best else ""
        axes.annotate(f"{star}{mean:.3g}", (x, y), (9, 6), textcoords="offset points", fontsize=10)
    if _spans(xs):
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    if _spans(ys):
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
    axes.margins(0.12)
    axes.set_xlabel(across, fontsize=11)
    axes.set_ylabel(up, fontsize=11)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.colorbar(dots, ax=axes, label=f"{_value_label(surface)}; ★ best")


def _plain_numbers(axis: Axis) -> None:
    """Numbers at the ticks of a logarithmic axis, without powers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _spans(numbers: list[float]) -> bool:
    """Whether numbers want a logarithmic axis."""
    return min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG_SPAN


def _value_label(surface: Surface) -> str:
    return f"{in_words(surface.value)}\n{surface.value}, {surface.direction} is better"


def _mean(surface: Surface, entry: SurfacePoint | None) -> float:
    return float("nan") if entry is None else surface.estimate(entry).mean

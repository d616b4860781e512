"""Plot of training curves: a panel for each logged quantity, a line for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.bench.report.canvas import DOTS, Style, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Sequence[Mapping[str, float]]
"""Lines of a training log."""
_SHOWN = ("loss", "grad_norm")
"""Ends of the names of quantities that have a panel, beside all that is watched (`watch/`)."""
_MOST = 6
"""Largest number of panels."""
_LOG_SPAN = 30.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""


def quantities(logs: Mapping[str, Lines]) -> list[str]:
    """Quantities that get a panel: losses, what is watched, norms; of each, those of most models first."""
    counts: dict[str, int] = {}
    for lines in logs.values():
        for name in dict.fromkeys(name for line in lines for name in line):
            if "/" in name and (name.rsplit("/", 1)[1] in _SHOWN or name.startswith("watch/")):
                counts[name] = counts.get(name, 0) + 1
    order = sorted(counts, key=lambda name: (name.endswith("grad_norm"), name.startswith("watch/"), -counts[name]))
    return order[:_MOST]


def draw_training_plot(logs: Mapping[str, Lines], looks: Mapping[str, Style], path: Path) -> Path | None:
    """Write the curves of all models; None if no log has a quantity that is drawn."""
    names = quantities(logs)
    if not names:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(8.0, 0.7 + 2.5 * rows), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, name in zip(panels, names, strict=False):
        _panel(panel, name, logs, looks)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    handles = [_handle(looks[model]) for model in logs]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=10)
    return save(figure, path)


def _panel(axes: Axes, name: str, logs: Mapping[str, Lines], looks: Mapping[str, Style]) -> None:
    values = []
    for model, lines in logs.items():
        points = [(line["step"], line[name]) for line in lines if name in line and math.isfinite(line[name])]
        look = looks[model]
        marker = look.marker if len(points) < 8 else "none"
        xs, ys = [step for step, _ in points], [value for _, value in points]
        axes.plot(xs, ys, color=look.color, linestyle=look.linestyle, marker=marker, linewidth=1.5, markersize=4)
        values += ys
    if values and min(values) > 0 and max(values) / min(values) > _LOG_SPAN:
        axes.set_yscale("log")
    axes.set_title(name, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel("training step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _handle(look: Style) -> object:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.color, linestyle=look.linestyle, marker=look.marker, label=look.label)

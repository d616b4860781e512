"""Quality by diversity as one picture: a model that draws little else than a few good samples lies off to a side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.bench.plot import COLOURS, MARKERS, begin, finish
from fewstep.bench.results import Results
from fewstep.bench.suite import REFERENCE
from fewstep.bench.tables import REAL


def draw_diversity_plot(results: Results, path: Path) -> Path:
    """Write the headline value against the suite's value of diversity, one line a case through its NFEs."""
    assert results.diversity is not None
    figure, axes = begin(5.6)
    names = dict.fromkeys(s.case for s in results.summary if s.case != REFERENCE)
    for index, name in enumerate(names):
        _line(axes, results, name, index)
    real = results.find(REFERENCE, None)
    if real and {results.diversity, results.headline} <= real.values.keys():
        x, y = (real.values[value].mean for value in (results.diversity, results.headline))
        axes.plot([x], [y], linestyle="none", marker="*", markersize=16, color="#555555", label=REAL)
    axes.set_xlabel(results.diversity, fontsize=11)
    return finish(figure, axes, axes.yaxis, results, path)


def _line(axes: Any, results: Results, name: str, index: int) -> None:
    """A case's points, each with its NFE beside it."""
    case = results.case(name)
    found = [s for s in results.summary if s.case == name]
    points = [(s.values[str(results.diversity)].mean, s.values[results.headline].mean) for s in found]
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        label=case.label if case else name,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
        linewidth=1.4,
        markersize=6,
    )
    for (x, y), summary in zip(points, found, strict=True):
        axes.annotate(str(summary.nfe), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)

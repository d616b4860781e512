"""Several models side by side: values, curves, samples, and what their recipes differ in, as files and one page."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from fewstep.bench.report import html
from fewstep.bench.report.canvas import styles
from fewstep.bench.report.curves import means_over_nfe
from fewstep.bench.report.diversity_plot import draw_diversity_plot
from fewstep.bench.report.plot import draw_plot
from fewstep.bench.report.recipe_diff import recipes_grid
from fewstep.bench.report.tables import (
    ARROWS,
    REAL,
    Grid,
    conclusion,
    console_table,
    environment_lines,
    model_grid,
    spread,
    value_grid,
)
from fewstep.bench.report.training_plot import Lines, draw_training_plot
from fewstep.bench.results.results import Results

_KEYS = 8
"""Keys of recipes that the console names."""


def area_grid(results: Results) -> Grid | None:
    """One number for each curve, the mean of the headline over log NFE; None where curves share no range."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for summary in results.summary:
        if summary.nfe and results.headline in summary.values:
            mean = summary.values[results.headline].mean
            curves.setdefault(summary.case, []).append((summary.nfe, mean))
    areas, span = means_over_nfe(curves)
    if span is None:
        return None
    low, high = (f"{number:g}" for number in span)
    header = ["model", f"{results.headline}, mean over NFE {low} to {high}{ARROWS[results.direction]}"]
    return Grid(header, [[name, f"{areas[name]:.4g}" if name in areas else "one NFE only"] for name in curves])


def write_side_by_side(results: Results, logs: Mapping[str, Lines], folder: Path, real: Path | None = None) -> Path:
    """Write `results.json`, `comparison.md`, plots and `comparison.html`; returns the page.

    Args:
        logs: lines of the training log of each model that has one.
        real: sheet of real samples, if there is one.
    """
    results.save(folder / "results.json")
    draw_plot(results, folder / "quality_vs_nfe.png")
    if results.diversity:
        draw_diversity_plot(results, folder / "quality_vs_diversity.png")
    looks = styles(results)
    curves = draw_training_plot({name: lines for name, lines in logs.items() if lines}, looks, folder / "training.png")
    differences = recipes_grid({case.name: case.resolved for case in results.cases})
    (folder / "comparison.md").write_text(_markdown(results, differences, curves), encoding="utf-8")
    text = html.page(
        "comparison.html",
        results=results,
        folder=folder,
        conclusion=conclusion(results),
        area=area_grid(results),
        spread=spread(results),
        values=value_grid(results),
        real=REAL,
        real_sheet=real,
        samples=list(_sheets(results, folder)),
        differences=differences,
        models=model_grid(results),
        curves=curves,
        commands=[results.suite.command],
        environment=environment_lines(results),
    )
    page = folder / "comparison.html"
    page.write_text(text, encoding="utf-8")
    return page


def console_lines(results: Results) -> list[str]:
    """Values, the conclusion, and what the recipes differ in, for the console."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    with console.capture() as captured:
        console.print(console_table(results))
    lines = [line.rstrip() for line in captured.get().rstrip().splitlines()]
    rows = recipes_grid({case.name: case.resolved for case in results.cases}).rows
    keys = ", ".join(row[0] for row in rows[:_KEYS]) + (f" and {len(rows) - _KEYS} more" if len(rows) > _KEYS else "")
    return [*lines, "", conclusion(results), f"recipes differ in {len(rows)} keys" + (f": {keys}" if keys else "")]


def _markdown(results: Results, differences: Grid, curves: Path | None) -> str:
    area = area_grid(results)
    parts = [
        f"# {results.suite.title}",
        conclusion(results),
        f"{results.suite.samples} samples in each row; {spread(results)}. ↓ lower is better, ↑ higher is better.",
        value_grid(results).markdown(),
        area.markdown() if area else "",
        "![quality by evaluations](quality_vs_nfe.png)",
        "![quality by diversity](quality_vs_diversity.png)" if results.diversity else "",
        "## Recipes: what differs",
        differences.markdown() if differences.rows else "Nothing.",
        "## Trainings",
        model_grid(results).markdown(),
        "![training curves](training.png)" if curves else "",
        f"```bash\n{results.suite.command}\n```",
        "\n".join(f"- {line}" for line in environment_lines(results)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _sheets(results: Results, folder: Path) -> Iterator[tuple[str, int, Path | None, str]]:
    """Model, steps, sheet and caption: a row for each number of steps, a column for each model."""
    rows = {(row.case, row.steps): row for row in results.rows if row.sheet}
    for steps in sorted({row.steps for row in rows.values() if row.steps is not None}):
        for case in results.cases:
            row = rows.get((case.name, steps))
            if row is None or row.sheet is None:
                yield case.name, steps, None, ""
                continue
            value = f", {results.headline} {row.values[results.headline]:.4g}" if results.headline in row.values else ""
            yield case.name, steps, folder / row.sheet, f"{case.name}, {row.nfe} NFE{value}"

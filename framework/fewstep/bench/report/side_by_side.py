"""Several models side by side: values, curves, samples, and what their recipes differ in, as files and one page."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from html import escape
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
from fewstep.bench.results.results import Results, Row

_CURVES = (
    "Losses of different objectives are different quantities: compare the shape of their curves, and heights only "
    "between runs of one objective."
)
_KEYS = 8
"""Keys of recipes that the console names."""
_STYLE = """<style>
.side { display: grid; grid-template-columns: repeat(var(--models), minmax(15rem, 1fr)); gap: 1.2rem; }
.side h3 { font-size: 1rem; margin: 0; }
</style>"""


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
    page = folder / "comparison.html"
    page.write_text(html.page(results.suite.title, _body(results, differences, curves, folder, real)), encoding="utf-8")
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


def _body(results: Results, differences: Grid, curves: Path | None, folder: Path, real: Path | None) -> str:
    area = area_grid(results)
    parts = [
        _STYLE,
        f"<h1>{escape(results.suite.title)}</h1>",
        f'<p class="soft">{escape(results.date)}, {escape(str(results.environment["hardware"]))}</p>',
        f'<p class="conclusion">{escape(conclusion(results))}</p>',
        "<h2>Quality by evaluations</h2>",
        html.plot(folder / "quality_vs_nfe.png", "quality by number of evaluations"),
        *([_area_note(), html.table(area)] if area else []),
        "<h2>Values</h2>",
        f'<p class="soft">{results.suite.samples} samples in each row; {escape(spread(results))}. ↓ lower is better, ↑ '
        "higher is better. NFE: network evaluations, counted by the network. Bold: the best, and what is not "
        "significantly worse.</p>",
        html.table(value_grid(results)),
        *_diversity(results, folder),
        f"<h2>Samples</h2>{_real(real)}{_sheets(results, folder)}",
        "<h2>Recipes: what differs</h2>",
        html.table(differences) if differences.rows else '<p class="soft">Nothing.</p>',
        f"<h2>Trainings</h2>{html.table(model_grid(results))}",
        *([html.plot(curves, "training curves"), f'<p class="soft">{_CURVES}</p>'] if curves else []),
        f'<h2>How to repeat this</h2><pre class="wrap">{escape(results.suite.command)}</pre>',
        "<details><summary>Hardware and versions</summary>"
        f'<pre class="wrap">{escape(chr(10).join(environment_lines(results)))}</pre></details>',
    ]
    return "\n".join(parts)


def _area_note() -> str:
    return (
        '<p class="soft">One number for each curve: its area over the logarithm of NFE, divided by the width of the '
        "range that all curves cover. A doubling of NFE counts the same anywhere.</p>"
    )


def _diversity(results: Results, folder: Path) -> list[str]:
    if results.diversity is None:
        return []
    return ["<h2>Quality by diversity</h2>", html.plot(folder / "quality_vs_diversity.png", "quality by diversity")]


def _real(sheet: Path | None) -> str:
    """Real samples, which stand before all others."""
    return "" if sheet is None else f'<div class="sheets">{html.sheet(sheet, REAL)}</div>'


def _sheets(results: Results, folder: Path) -> str:
    """Sheets of samples: a row for each number of steps, a column for each model."""
    rows = {(row.case, row.steps): row for row in results.rows if row.sheet}
    names = [case.name for case in results.cases]
    cells = [f"<h3>{escape(name)}</h3>" for name in names]
    for steps in sorted({row.steps for row in rows.values() if row.steps is not None}):
        cells += [_sheet(results, rows.get((name, steps)), name, steps, folder) for name in names]
    return f'<div class="scroll"><div class="side" style="--models: {len(names)}">{"".join(cells)}</div></div>'


def _sheet(results: Results, row: Row | None, name: str, steps: int, folder: Path) -> str:
    if row is None or row.sheet is None:
        return f'<figure><figcaption class="soft">{escape(name)}: not measured at {steps} steps</figcaption></figure>'
    value = f", {results.headline} {row.values[results.headline]:.4g}" if results.headline in row.values else ""
    return html.sheet(folder / row.sheet, f"{name}, {row.nfe} NFE{value}")

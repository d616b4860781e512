"""The report: one self-contained HTML page, without scripts and without external files."""

from __future__ import annotations

from html import escape
from itertools import groupby
from pathlib import Path

from fewstep.bench.report import html
from fewstep.bench.report.recipe_diff import base_of, recipe_diff
from fewstep.bench.report.tables import (
    BEST,
    BUDGET,
    REAL,
    budgets,
    commands,
    conclusion,
    environment_lines,
    frontier_grid,
    model_grid,
    notes,
    other_grid,
    spread,
    surface_file,
    surface_grid,
    value_grid,
)
from fewstep.bench.results.results import CaseResult, ClaimResult, Results, Row
from fewstep.bench.results.surfaces import surfaces
from fewstep.bench.suites.sweep import sweep_text
from fewstep.core.places import inside
from fewstep.recipe.yaml_loader import dump_yaml


def write_report(results: Results, folder: Path) -> Path:
    """Write `report.html` from the results and the pictures in their folder."""
    suite = results.suite
    parts = [
        f"<h1>{escape(suite.title)}</h1>",
        f'<p class="soft">suite {escape(suite.name)}, {escape(results.date)}, '
        f"{escape(str(results.environment['hardware']))}</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes(results)),
        f'<p class="conclusion">{escape(conclusion(results))}</p>',
        _claims(results.claims),
        "<h2>Quality by evaluations</h2>",
        html.plot(folder / "quality_vs_nfe.png", "quality by number of evaluations"),
        *_diversity(results, folder),
        *_frontier(results, folder),
        *_surfaces(results, folder),
        "<h2>Values</h2>",
        f'<p class="soft">{escape(_conditions(results))}</p>',
        f'<p class="soft">{escape(BEST)}</p>',
        html.table(value_grid(results)),
        *_others(results),
        f"<h2>Samples</h2>{_sheets(results, folder)}",
        f"<h2>Models</h2>{html.table(model_grid(results))}",
        f'<p class="soft">{escape(BUDGET)} {escape(budgets(results))}</p>',
        *_recipes(results),
        "<h2>How to repeat this</h2>",
        f'<pre class="wrap">{escape(chr(10).join(commands(results)))}</pre>',
        f"<details><summary>Hardware and versions</summary>"
        f'<pre class="wrap">{escape(chr(10).join(environment_lines(results)))}</pre></details>',
    ]
    path = folder / "report.html"
    path.write_text(html.page(suite.title, "\n".join(parts)), encoding="utf-8")
    return path


def _claims(claims: tuple[ClaimResult, ...]) -> str:
    """Each expectation as a sentence with a mark."""
    marks = {True: ("good", "✓"), False: ("bad", "✗"), None: ("soft", "–")}
    items = []
    for claim in claims:
        kind, mark = marks[claim.holds]
        items.append(f'<li><b class="{kind}">{mark}</b>{escape(claim.text)}</li>')
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _conditions(results: Results) -> str:
    return (
        f"{results.suite.samples} samples in each row; {spread(results)}. ↓ lower is better, ↑ higher is better; "
        f"values without an arrow are for comparison with the {REAL}. These are exact draws if the data's distribution "
        "is known, else training samples (so that they count as copies). NFE: network evaluations, counted by the "
        "network."
    )


def _others(results: Results) -> list[str]:
    """Folded table of the values that are for comparison only, if there are any."""
    grid = other_grid(results)
    if len(grid.header) == 2:
        return []
    return [f"<details><summary>Values for comparison with the {REAL}</summary>{html.table(grid)}</details>"]


def _sheets(results: Results, folder: Path) -> str:
    """Sample sheets: real samples first, then a row for each number of evaluations, with the cases in their order."""
    rows = sorted((row for row in results.rows if row.sheet is not None), key=lambda row: row.nfe or 0)
    parts = []
    for nfe, group in groupby(rows, key=lambda row: row.nfe):
        plural = "" if nfe == 1 else "s"
        head = "" if nfe is None else f"<h3>{nfe:g} evaluation{plural}</h3>"
        parts.append(f'{head}<div class="sheets">{"".join(_sheet(results, row, folder) for row in group)}</div>')
    return "".join(parts)


def _sheet(results: Results, row: Row, folder: Path) -> str:
    file = inside(folder, str(row.sheet), f"'{folder / 'results.json'}'")
    return html.sheet(file, _caption(results, row))


def _caption(results: Results, row: Row) -> str:
    case = results.case(row.case)
    label = case.label if case else REAL
    where = "" if row.nfe is None else f", {row.nfe} NFE"
    where += "" if row.sweep is None else f", {sweep_text(row.sweep)}"
    names = (results.headline, results.beside.get(results.headline))
    scores = "".join(f"{name} {row.values[name]:.4g}, " for name in names if name in row.values)
    return f"{label}{where}: {scores}seed {row.seed}"


def _diversity(results: Results, folder: Path) -> list[str]:
    """Section with the plot of quality by diversity, if the suite has one."""
    if results.diversity is None:
        return []
    return ["<h2>Quality by diversity</h2>", html.plot(folder / "quality_vs_diversity.png", "quality by diversity")]


def _frontier(results: Results, folder: Path) -> list[str]:
    """Section with the frontiers and their table, if settings were swept."""
    if not results.frontier:
        return []
    legend = (
        "Each curve is one model at one number of evaluations, over values of a setting of its sampler. The labels of "
        "points are these values. The band is a standard error over seeds in both directions."
    )
    return [
        "<h2>Frontiers: quality by diversity</h2>",
        html.plot(folder / "frontier.png", "quality by diversity over values of a setting"),
        f'<p class="soft">{legend}</p>',
        html.table(frontier_grid(results)),
    ]


def _surfaces(results: Results, folder: Path) -> list[str]:
    """A section for each sweep of recipe keys: its best point in a sentence, plot and table."""
    parts = []
    for surface in surfaces(results):
        title = f"Sweep of {surface.label}: {', '.join(surface.keys)}"
        parts += [
            f"<h2>{escape(title)}</h2>",
            f"<p>{escape(surface.sentence(results))}</p>",
            html.plot(folder / surface_file(surface), f"{surface.value} over {', '.join(surface.keys)}"),
            html.table(surface_grid(results, surface)),
        ]
    return parts


def _recipes(results: Results) -> list[str]:
    """Complete recipes, folded, each after its differences from the case that it builds on."""
    return [
        f"<details><summary>Recipe of {escape(case.name)}, with every default</summary>"
        f"{_difference(results, case)}<pre>{escape(dump_yaml(case.resolved))}</pre></details>"
        for case in results.cases
        if case == results.case(case.name)
    ]


def _difference(results: Results, case: CaseResult) -> str:
    base = base_of(results, case)
    if base is None:
        return ""
    grid = recipe_diff(base, case)
    if not grid.rows:
        return f'<p class="soft">Identical to the recipe of {escape(base.name)}.</p>'
    return f'<p class="soft">Differences from the recipe of {escape(base.name)}:</p>{html.table(grid)}'

"""The report: one self-contained HTML page, without scripts and without external files."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from fewstep.bench.report.canvas import DOTS
from fewstep.bench.report.recipe_diff import base_of, recipe_diff
from fewstep.bench.report.tables import (
    BEST,
    BUDGET,
    REAL,
    Grid,
    budgets,
    commands,
    conclusion,
    environment_lines,
    frontier_grid,
    model_grid,
    notes,
    other_grid,
    spread,
    value_grid,
)
from fewstep.bench.results.results import CaseResult, ClaimResult, Results, Row
from fewstep.bench.suites.sweep import sweep_text
from fewstep.core.places import inside
from fewstep.recipe.yaml_loader import dump_yaml

_TEXT_SHOWN = 6000
"""Number of characters shown of a text sheet."""
_LONG = 40
"""Number of characters above which a cell of a table may wrap."""

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #59636e; --page: #ffffff; --box: #f3f5f7; --line: #d5dae0;
        --good: #0a6b4f; --bad: #b03a00; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ed; --soft: #9aa4af; --page: #14171b; --box: #1f242a; --line: #39414a;
          --good: #4fd1a5; --bad: #ff9a63; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 68rem; color: var(--text); background: var(--page);
       font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.4rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; }
.soft, figcaption { color: var(--soft); font-size: 0.9rem; }
.note { border-left: 4px solid var(--bad); padding: 0.5rem 0.9rem; background: var(--box); }
.conclusion { font-size: 1.1rem; }
ul { padding-left: 0; list-style: none; }
li { margin: 0.45rem 0; padding-left: 1.7rem; text-indent: -1.7rem; }
li b { display: inline-block; width: 1.7rem; text-indent: 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
th.word, td.word { text-align: left; }
td.best { font-weight: 700; }
td.long { white-space: normal; min-width: 16rem; }
.plot { background: #ffffff; border-radius: 8px; max-width: calc(6.5rem * var(--inches, 8)); padding: 0.4rem;
        overflow-x: auto; }
.plot img { min-width: calc(3.3rem * var(--inches, 8)); }
img { max-width: 100%; height: auto; display: block; }
.sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figcaption { padding-top: 0.35rem; }
figure img { width: 100%; border-radius: 4px; image-rendering: pixelated; }
pre { background: var(--box); padding: 0.8rem; border-radius: 6px; overflow: auto; max-height: 28rem;
      font-size: 0.82rem; line-height: 1.4; margin: 0.3rem 0; }
.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 0.3rem 0; }
@media (max-width: 40rem) { td.word { white-space: normal; } td.best { font-weight: 700; }
td.long { min-width: 9rem; } }
"""


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
        _plot(folder / "quality_vs_nfe.png", "quality by number of evaluations"),
        *_diversity(results, folder),
        *_frontier(results, folder),
        "<h2>Values</h2>",
        f'<p class="soft">{escape(_conditions(results))}</p>',
        f'<p class="soft">{escape(BEST)}</p>',
        _table(value_grid(results)),
        *_others(results),
        f"<h2>Samples</h2>{_sheets(results, folder)}",
        f"<h2>Models</h2>{_table(model_grid(results))}",
        f'<p class="soft">{escape(BUDGET)} {escape(budgets(results))}</p>',
        *_recipes(results),
        "<h2>How to repeat this</h2>",
        f'<pre class="wrap">{escape(chr(10).join(commands(results)))}</pre>',
        f"<details><summary>Hardware and versions</summary>"
        f'<pre class="wrap">{escape(chr(10).join(environment_lines(results)))}</pre></details>',
    ]
    path = folder / "report.html"
    path.write_text(_page(suite.title, "\n".join(parts)), encoding="utf-8")
    return path


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


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


def _table(grid: Grid) -> str:
    def cells(tag: str, row: list[str], number: int = -1) -> str:
        marks = [" best" if (number, i) in grid.best else "" for i in range(len(row))]
        return "".join(f'<{tag} class="{kind(i, cell)}{marks[i]}">{escape(cell)}</{tag}>' for i, cell in enumerate(row))

    def kind(column: int, cell: str) -> str:
        return "number" if column >= grid.text_columns else "word long" if len(cell) > _LONG else "word"

    head, rows = cells("th", grid.header), "".join(f"<tr>{cells('td', row, i)}</tr>" for i, row in enumerate(grid.rows))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _others(results: Results) -> list[str]:
    """Folded table of the values that are for comparison only, if there are any."""
    grid = other_grid(results)
    if len(grid.header) == 2:
        return []
    return [f"<details><summary>Values for comparison with the {REAL}</summary>{_table(grid)}</details>"]


def _sheets(results: Results, folder: Path) -> str:
    """Sample sheets side by side, real samples first."""
    figures = []
    for row in results.rows:
        if row.sheet is None:
            continue
        caption = _caption(results, row)
        file = inside(folder, row.sheet, f"'{folder / 'results.json'}'")
        if file.suffix == ".png":
            sheet = _image(file, caption)
        else:
            text = file.read_text(encoding="utf-8", errors="replace")
            sheet = f"<pre>{escape(text[:_TEXT_SHOWN])}{' …' if len(text) > _TEXT_SHOWN else ''}</pre>"
        figures.append(f"<figure>{sheet}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="sheets">{"".join(figures)}</div>'


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
    return ["<h2>Quality by diversity</h2>", _plot(folder / "quality_vs_diversity.png", "quality by diversity")]


def _plot(path: Path, alt: str) -> str:
    """A plot in its own width. On a narrow page it scrolls in its box, so that it stays readable."""
    pixels = int.from_bytes(path.read_bytes()[16:20], "big")
    return f'<div class="plot" style="--inches: {pixels / DOTS:.1f}">{_image(path, alt)}</div>'


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
        _plot(folder / "frontier.png", "quality by diversity over values of a setting"),
        f'<p class="soft">{legend}</p>',
        _table(frontier_grid(results)),
    ]


def _image(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


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
    return f'<p class="soft">Differences from the recipe of {escape(base.name)}:</p>{_table(grid)}'

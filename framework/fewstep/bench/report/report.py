"""The report: one self-contained HTML page, without scripts and without external files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from fewstep.bench.report import html
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
    surface_file,
    surface_grid,
    value_grid,
)
from fewstep.bench.results.results import CaseResult, Results, Row
from fewstep.bench.results.surfaces import surfaces
from fewstep.bench.suites.sweep import sweep_text
from fewstep.core.places import inside
from fewstep.recipe.yaml_loader import dump_yaml


def write_report(results: Results, folder: Path) -> Path:
    """Write `report.html` from the results and the pictures in their folder."""
    text = html.page(
        "report.html",
        results=results,
        folder=folder,
        notes=notes(results),
        conclusion=conclusion(results),
        frontiers=frontier_grid(results) if results.frontier else None,
        surfaces=[(s, surface_file(s), s.sentence(results), surface_grid(results, s)) for s in surfaces(results)],
        spread=spread(results),
        real=REAL,
        best=BEST,
        values=value_grid(results),
        others=other_grid(results),
        samples=list(_samples(results, folder)),
        models=model_grid(results),
        budget=f"{BUDGET} {budgets(results)}",
        recipes=list(_recipes(results)),
        commands=commands(results),
        environment=environment_lines(results),
    )
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _samples(results: Results, folder: Path) -> Iterator[tuple[float | None, list[tuple[Path, str]]]]:
    """Sheets with captions by the number of evaluations, real samples first, then the cases in their order."""
    rows = sorted((row for row in results.rows if row.sheet is not None), key=lambda row: row.nfe or 0)
    label = f"'{folder / 'results.json'}'"
    for nfe, group in groupby(rows, key=lambda row: row.nfe):
        yield nfe, [(inside(folder, str(row.sheet), label), _caption(results, row)) for row in group]


def _caption(results: Results, row: Row) -> str:
    case = results.case(row.case)
    label = case.label if case else REAL
    where = "" if row.nfe is None else f", {row.nfe} NFE"
    where += "" if row.sweep is None else f", {sweep_text(row.sweep)}"
    names = (results.headline, results.beside.get(results.headline))
    scores = "".join(f"{name} {row.values[name]:.4g}, " for name in names if name in row.values)
    return f"{label}{where}: {scores}seed {row.seed}"


def _recipes(results: Results) -> Iterator[tuple[CaseResult, CaseResult | None, Grid | None, str]]:
    """Each case that was trained with the case that it builds on, how they differ, and its complete recipe."""
    for case in results.cases:
        if case == results.case(case.name):
            base = base_of(results, case)
            yield case, base, None if base is None else recipe_diff(base, case), dump_yaml(case.resolved)

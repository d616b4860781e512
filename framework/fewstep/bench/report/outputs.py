"""Outputs of a suite: files, and the last lines on the console."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fewstep.bench.report.diversity_plot import draw_diversity_plot
from fewstep.bench.report.frontier_plot import draw_frontier_plot
from fewstep.bench.report.plot import draw_plot
from fewstep.bench.report.report import write_report
from fewstep.bench.report.surface_plot import draw_surface
from fewstep.bench.report.tables import (
    QUICK_NOTE,
    conclusion,
    console_table,
    frontier_grid,
    markdown,
    surface_file,
    value_grid,
)
from fewstep.bench.results.results import Results
from fewstep.bench.results.surfaces import sentences, surfaces


def write_outputs(results: Results, folder: Path) -> None:
    """Write table, plot and report beside `results.json`."""
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")
    (folder / "results.tex").write_text(value_grid(results).latex() + "\n", encoding="utf-8")
    if results.frontier:
        (folder / "frontier.tex").write_text(frontier_grid(results).latex() + "\n", encoding="utf-8")
    draw_pictures(results, folder)
    write_report(results, folder)


def draw_pictures(results: Results, folder: Path) -> list[Path]:
    """Write all plots, `quality_vs_nfe.png` first. Returns their paths."""
    paths = [draw_plot(results, folder / "quality_vs_nfe.png")]
    if results.diversity:
        paths.append(draw_diversity_plot(results, folder / "quality_vs_diversity.png"))
    if results.frontier:
        paths.append(draw_frontier_plot(results, folder / "frontier.png"))
    paths += [draw_surface(results, surface, folder / surface_file(surface)) for surface in surfaces(results)]
    return paths


def announce(results: Results, folder: Path, say: Callable[[str], None]) -> None:
    """Print the results and their places on the console."""
    from rich.console import Console

    # A pipe or a file has no width.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    with console.capture() as captured:
        console.print(console_table(results))
    say("")
    for line in captured.get().rstrip().splitlines():
        say(line.rstrip())
    say("")
    for line in [
        *[QUICK_NOTE] * results.suite.quick,
        *(claim.text for claim in results.claims),
        *sentences(results),
        conclusion(results),
    ]:
        say(line)
    say(f"report: {folder / 'report.html'}")
    say(f"pictures: {folder / 'samples'}, {folder / 'quality_vs_nfe.png'}")

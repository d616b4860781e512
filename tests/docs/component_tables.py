"""The tables of components in the pages, made from the registries. `python tests/docs/component_tables.py` rewrites
them.

A page says where a table stands, by two comments with the kind of component:

    <!-- samplers, written by tests/docs/component_tables.py -->
    <!-- end of samplers -->
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fewstep.core.entries import Entry
from fewstep.core.kinds import KINDS, kind_named, registry
from fewstep.recipe import load_recipe
from fewstep.recipe.shipped import shipped_recipes

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {
    "schedules": DOCS / "concepts.md",
    "processes": DOCS / "concepts.md",
    "backbones": DOCS / "backbones.md",
    "noise_inputs": DOCS / "dmmd.md",
    "grids": DOCS / "samplers.md",
    "samplers": DOCS / "samplers.md",
    "objectives": DOCS / "baselines.md",
    "supervisions": DOCS / "concepts.md",
    "tokenizers": DOCS / "text-data.md",
    "datasets": DOCS / "data.md",
    "metrics": DOCS / "metrics.md",
    "trackers": DOCS / "tracking.md",
}
_SECTION = re.compile(
    r"<!-- (?P<kind>\w+), written by tests/docs/component_tables\.py -->\n(?P<table>.*?)<!-- end of (?P=kind) -->\n",
    re.DOTALL,
)
_PAPER = re.compile(r"arXiv\s+(\d{4}\.\d{5})|(?<=, )(\d{4}\.\d{5})")
_SOURCE = re.compile(r" \((?P<source>[^()]*arXiv[^()]*)\)")

Cell = Callable[[Entry], str]


def sampler_process(entry: Entry) -> str:
    """Processes whose states a sampler can draw."""
    return "masked" if entry.cls.traits.masks_only else "both"


def directions(entry: Entry) -> str:
    """Values of a metric, and which way each is better."""
    arrows = {"lower": " ↓", "higher": " ↑", "info": ""}
    return ", ".join(f"`{name}`{arrows[way]}" for name, way in entry.cls.directions.items())


@cache
def processes_of_recipes() -> dict[str, set[str]]:
    """Objectives, and the processes that shipped recipes train them with."""
    processes: dict[str, set[str]] = {}
    for path in shipped_recipes().values():
        recipe = load_recipe(path).recipe
        processes.setdefault(recipe.objective.type, set()).add(recipe.process.type)
    return processes


def file_key(entry: Entry) -> str:
    """What the key `path` of a dataset names, if it has one."""
    field = entry.cls.Config.model_fields.get("path")
    return (field.description or "") if field else ""


def shipped_for(entry: Entry) -> str:
    """Processes that shipped recipes train an objective with."""
    return ", ".join(sorted(processes_of_recipes().get(entry.name, ())))


COLUMNS: dict[str, dict[str, Cell]] = {
    "samplers": {"process": sampler_process},
    "objectives": {"recipes for": shipped_for},
    "metrics": {"values": directions},
    "datasets": {"`path`": file_key},
}
"""Columns of single kinds, beside name, summary and source."""


def summary(entry: Entry) -> str:
    """First paragraph of the docstring, without the papers in brackets."""
    return _SOURCE.sub("", entry.summary)


def source(entry: Entry) -> str:
    """What the summary has in brackets, else the papers of the docstring, or of the module's; as links."""
    bracket = _SOURCE.search(entry.summary)
    if bracket:
        return _PAPER.sub(lambda match: link(match[1] or match[2]), bracket["source"])
    documented = (entry.cls, inspect.getmodule(entry.cls))
    text = next((doc for part in documented if "arXiv" in (doc := inspect.getdoc(part) or "")), "")
    papers = [first or second for first, second in _PAPER.findall(text)]
    return ", ".join(link(paper) for paper in dict.fromkeys(papers))


def link(paper: str) -> str:
    """A paper of arXiv."""
    return f"[{paper}](https://arxiv.org/abs/{paper})"


def table(kind: str) -> str:
    """The table of one kind in Markdown."""
    columns: dict[str, Cell] = {**COLUMNS.get(kind, {}), "summary": summary, "source": source}
    entries = list(registry(kind).entries())
    columns = {name: cell for name, cell in columns.items() if any(cell(entry) for entry in entries)}
    title = registry(kind).kind
    lines = [f"| {' | '.join([title, *columns])} |", "|---" * (len(columns) + 1) + "|"]
    for entry in entries:
        cells = [cell(entry).replace("|", "\\|") for cell in columns.values()]
        lines.append(f"| {' | '.join([f'`{entry.name}`', *cells])} |")
    return "\n".join(lines)


def sections(text: str) -> dict[str, str]:
    """The tables of a page by kind."""
    return {match["kind"]: match["table"] for match in _SECTION.finditer(text)}


def rewritten(text: str) -> str:
    """A page with its tables as they should be."""

    def section(match: re.Match[str]) -> str:
        kind = kind_named(match["kind"])
        head = f"<!-- {kind}, written by tests/docs/component_tables.py -->"
        return f"{head}\n\n{table(kind)}\n\n<!-- end of {kind} -->\n"

    return _SECTION.sub(section, text)


if __name__ == "__main__":
    assert set(PAGES) == set(KINDS)
    for page in sorted(set(PAGES.values())):
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")

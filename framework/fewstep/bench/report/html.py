"""Self-contained HTML pages, without scripts and without external files, by the templates in `templates/`.

Every value is escaped where it enters a template.
"""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fewstep.bench.report.canvas import DOTS
from fewstep.bench.report.tables import Grid

_TEXT_SHOWN = 6000
"""Number of characters shown of a text sheet."""
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def page(template: str, **values: object) -> str:
    """A page of a template with these values."""
    return _TEMPLATES.get_template(template).render(values)


def table(grid: Grid) -> str:
    """A table alone, for notebooks."""
    return _part("table", grid)


def plot(path: Path, alt: str) -> str:
    """A plot alone, for notebooks."""
    return _part("plot", path, alt)


def _part(name: str, *arguments: object) -> str:
    return str(getattr(_TEMPLATES.get_template("parts.html").module, name)(*arguments))


def _inches(path: Path) -> float:
    """Width of a plot, by the header of its PNG file."""
    return int.from_bytes(path.read_bytes()[16:20], "big") / DOTS


def _beginning(file: Path) -> str:
    """The first characters of a text sheet."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return f"{text[:_TEXT_SHOWN]}{' …' if len(text) > _TEXT_SHOWN else ''}"


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


_TEMPLATES.filters |= {"inches": _inches, "beginning": _beginning, "base64": _base64}

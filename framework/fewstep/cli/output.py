"""Output of commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

import typer

from fewstep.core.echo import printable


def echo_json(value: object) -> None:
    """Print plain data as indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    typer.echo(text if printable(text) == text else json.dumps(value, indent=2))


def echo_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows with the same keys. The first column never wraps."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    typer.secho(printable(title), bold=True)
    if not rows:
        typer.echo("  (none)\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(rows[0]):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(value))) for value in row.values()))
    # A pipe or a file has no width; long lines are easier to search.
    Console(width=None if sys.stdout.isatty() else 180).print(table)

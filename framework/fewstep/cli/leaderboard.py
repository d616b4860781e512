"""`fewstep leaderboard`: results of many runs as one table."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from fewstep.cli.output import echo_json
from fewstep.cli.runs import TrustPlugins
from fewstep.core.echo import printable
from fewstep.core.plugins import trusting_plugins


class Form(str, Enum):
    """Format of the printed table."""

    markdown = "markdown"
    latex = "latex"
    json = "json"


def leaderboard(
    results: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="folders of results, results.json files, or evaluated models")
    ],
    value: Annotated[str | None, typer.Option(metavar="NAME", help="rank by this value, not the headline")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="HASH", help="only results of these data (first digits of the fingerprint)")
    ] = None,
    trust_plugins: TrustPlugins = False,
    form: Annotated[Form, typer.Option("--format", help="format of the table")] = Form.markdown,
) -> None:
    """Rank results of benchmarks and evaluations. Refuses values that are not comparable."""
    from fewstep.bench.report.leaderboard import merge

    with trusting_plugins(trust_plugins):
        board = merge(results, value=value, data=data)
    if form is Form.json:
        echo_json(board.plain())
    else:
        typer.echo(printable(board.grid().latex() if form is Form.latex else board.grid().markdown()))

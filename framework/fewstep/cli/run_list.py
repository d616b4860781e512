"""`fewstep runs`: the runs of a folder and how they fare."""

from __future__ import annotations

from typing import Annotated

import typer

from fewstep.cli.output import echo_json, echo_table


def runs(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="folder below which runs lie")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List runs with state, step, rate and age. The newest sign of life is last."""
    from fewstep.runs.listing import list_runs

    rows = list_runs(folder)
    if as_json:
        echo_json([row.plain() for row in rows])
        return
    echo_table(f"runs in '{folder}'", [row.texts() for row in rows])

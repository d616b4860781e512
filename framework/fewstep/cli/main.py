"""The `fewstep` command. Importing it loads neither torch nor any component."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from fewstep.cli import catalogue, data, doctor, export, grid, importing, leaderboard, recipes, runs, sampling
from fewstep.cli.lists import StepsCommand
from fewstep.core import plugins
from fewstep.core.errors import FewstepError, RecipeError
from fewstep.core.version import __version__

app = typer.Typer(
    help="Few-step generators distilled from discrete diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.command()(runs.train)
app.command()(runs.distill)
app.command()(sampling.sample)
app.command(cls=StepsCommand)(runs.evaluate)
app.command()(runs.benchmark)
app.command()(leaderboard.leaderboard)
app.command(cls=StepsCommand)(grid.grid)
app.command("import")(importing.import_)
app.command()(export.export)
app.command()(export.push)
app.command("list")(catalogue.list_)
app.command()(catalogue.show)
app.command()(recipes.validate)
app.command()(recipes.schema)
app.command()(recipes.cp)
app.command()(doctor.doctor)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"fewstep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Options of the command itself."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. Always raises SystemExit: 0 success, 1 failure, 2 wrong input, 130 interrupted."""
    try:
        app(args=args, prog_name="fewstep")
    except SystemExit as stop:
        if stop.code == 130:
            typer.echo("interrupted", err=True)
        raise
    except Exception as error:
        typer.echo(describe(error), err=True)
        if os.environ.get("FEWSTEP_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(error.exit_code if isinstance(error, FewstepError) else 1)


def describe(error: Exception) -> str:
    """Message of an error for the console."""
    if isinstance(error, RecipeError):
        count = len(error.problems)
        return f"{error}\n{count} problem{'s' if count != 1 else ''}"
    if isinstance(error, FewstepError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"error: {error.strerror}{f': {error.filename!r}' if error.filename else ''}"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return f"error: out of memory ({text}); lower train.batch_size, or split it with train.accumulate"
    plugin = plugins.blame(error)
    if plugin:
        return f"error in {plugin} (FEWSTEP_DEBUG=1 shows the traceback)"
    return f"internal error: {text}; this is a bug, please report it (FEWSTEP_DEBUG=1 shows the traceback)"

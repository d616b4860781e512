"""The `fewstep` command. Importing it loads neither torch nor any component."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from fewstep.cli import (
    catalogue,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    export,
    grid,
    importing,
    leaderboard,
    models,
    new_plugin,
    new_study,
    plan,
    recipes,
    run_list,
    runs,
    sampling,
)
from fewstep.cli.lists import StepsCommand
from fewstep.core import plugins
from fewstep.core.echo import safe_message
from fewstep.core.errors import (
    FewstepError,
    RecipeError,
    UserError,
    exit_code,
    is_disk_full,
    is_out_of_memory,
    is_too_large,
    path_remedy,
)
from fewstep.core.version import __version__
from fewstep.runtime.threads import bound_waiting

app = typer.Typer(
    help="Few-step generators distilled from discrete diffusion models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.command()(runs.train)
app.command()(runs.distill)
app.command()(plan.plan)
app.command()(models.models)
app.command()(sampling.sample)
app.command(cls=StepsCommand)(evaluate.evaluate)
app.command(cls=StepsCommand)(compare.compare)
app.command()(demo.demo)
app.command()(runs.benchmark)
app.command()(run_list.runs)
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
app.command()(new_plugin.new_plugin)
app.command()(new_study.new_study)
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
    bound_waiting()
    try:
        _check_encoding(sys.argv[1:] if args is None else args)
        app(args=args, prog_name="fewstep")
    except SystemExit as stop:
        if stop.code == 130:
            typer.echo("interrupted", err=True)
        raise
    except Exception as error:
        typer.echo(_rank() + describe(error), err=True)
        if os.environ.get("FEWSTEP_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(exit_code(error))


def _check_encoding(args: Sequence[str]) -> None:
    """Python keeps bytes that are no UTF-8 as lone surrogates, which no file, tokenizer or console takes.

    Raises:
        UserError: an argument has such bytes.
    """
    for number, text in enumerate(args, start=1):
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = text.encode(errors="backslashreplace").decode()
            option = f"{args[number - 2]}: " if number > 1 and args[number - 2].startswith("-") else ""
            raise UserError(f"{option}'{shown}' is not UTF-8 text; write it as UTF-8") from None


def _rank() -> str:
    """Beginning of a message of a process that torchrun started, unless it is the first one."""
    rank = os.environ.get("RANK", "0") if "MASTER_ADDR" in os.environ else "0"
    return "" if rank == "0" else f"rank {rank}: "


def describe(error: Exception) -> str:
    """Message of an error for the console."""
    if isinstance(error, RecipeError):
        count = len(error.problems)
        return f"{error}\n{count} problem{'s' if count != 1 else ''}"
    if isinstance(error, FewstepError):
        return f"error: {error}"
    text = safe_message(" ".join(f"{type(error).__name__}: {error}".split()))
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}{f': {safe_message(str(error.filename))!r}' if error.filename else ''}"
    if is_disk_full(error):
        text = text if isinstance(error, OSError) else "the disk is full"  # what a library says of it helps nobody
        return f"error: {text}; free some space on the disk, and continue with --resume where the command has it"
    if isinstance(error, OSError) and error.strerror:
        remedy = path_remedy(error)
        return f"error: {text}; {remedy}" if remedy else f"error: {text}"
    if is_out_of_memory(error):
        return f"error: out of memory ({text}); lower train.batch_size, or split it with train.accumulate"
    plugin = plugins.blame(error)
    if plugin:
        return f"error in {plugin} (FEWSTEP_DEBUG=1 shows the traceback)"
    if is_too_large(error):
        return f"error: a number is too large ({text}); FEWSTEP_DEBUG=1 shows where"
    names = [plugin.name for plugin in plugins.loaded() if not plugin.error]
    if names:
        return (
            f"error: {text}; plugins are loaded ({', '.join(names)}): does one return something else than its base "
            "class says? If not, please report it (FEWSTEP_DEBUG=1 shows the traceback)"
        )
    return f"internal error: {text}; this is a bug, please report it (FEWSTEP_DEBUG=1 shows the traceback)"

"""`fewstep data`: preparation of data before training."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from fewstep.cli.output import echo_json, echo_table
from fewstep.cli.recipes import Sets
from fewstep.cli.runs import RecipeArgument, TrustPlugins
from fewstep.core.errors import UserError

app = typer.Typer(help="Prepare data for training.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _data() -> None:
    """Prepare data for training."""


@app.command()
def prepare(
    recipe: RecipeArgument,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="processes that tokenise; one for each core if left out")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="read every shard again and compare its hash")] = False,
    sets: Sets = None,
    trust_plugins: TrustPlugins = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Tokenise the data of a recipe into shards. Continues an interrupted preparation."""
    from fewstep.data.base import Preparable
    from fewstep.recipe import load_recipe

    config = load_recipe(recipe, sets or [], trust_plugins=trust_plugins).recipe.data
    start = time.monotonic()
    if not isinstance(config, Preparable):
        raise UserError(f"data '{config.type}' need no preparation; train on them as they are")
    rows = config.prepare(workers or os.cpu_count() or 1, verify)
    folder = getattr(config, "prepared", None)
    if as_json:
        echo_json({"folder": folder, "parts": rows})
        return
    echo_table(f"{folder}, {time.monotonic() - start:.1f} s", rows)

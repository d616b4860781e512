"""`fewstep data`: preparation of data before training."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.cli.output import echo_json, echo_table
from fewstep.cli.recipes import Sets
from fewstep.cli.runs import ClusterOption, RecipeArgument, TrustPlugins
from fewstep.core.errors import UserError
from fewstep.core.plugins import trusting_plugins

if TYPE_CHECKING:
    from fewstep.data.base import Preparable

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
    cluster: ClusterOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="read every shard again and compare its hash")] = False,
    sets: Sets = None,
    trust_plugins: TrustPlugins = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Tokenise the data of a recipe into shards. Continues an interrupted preparation."""
    from fewstep.data.base import Preparable
    from fewstep.recipe import load_recipe

    if cluster and workers:
        raise UserError("--workers and --cluster exclude each other; the cluster file has the number of workers")
    loaded = load_recipe(recipe, sets or [], trust_plugins=trust_plugins).recipe
    config, start = loaded.data, time.monotonic()
    if not isinstance(config, Preparable):
        raise UserError(f"data '{config.type}' need no preparation; train on them as they are")
    if cluster is None:
        rows = config.prepare(workers or os.cpu_count() or 1, verify)
    else:
        rows = _prepare_on_cluster(cluster, config, verify, loaded.plugins, trust_plugins)
    folder = getattr(config, "prepared", None)
    if as_json:
        echo_json({"folder": folder, "parts": rows})
        return
    echo_table(f"{folder}, {time.monotonic() - start:.1f} s", rows)


def _prepare_on_cluster(
    cluster: str, config: Preparable, verify: bool, plugins: Sequence[str], trust_plugins: bool
) -> list[dict[str, object]]:
    """Prepare data with the workers of a cluster, which load the recipe's plugins by the same trust."""
    from fewstep.cluster.ordered import in_order_on

    folder = Path(getattr(config, "prepared", None) or ".").parent
    with trusting_plugins(trust_plugins), in_order_on(cluster, folder, plugins, _say) as in_order:
        return config.prepare(1, verify, in_order)


def _say(line: str) -> None:
    typer.echo(line, err=True)

"""`fewstep plan`: options of the command. `fewstep.planning` makes the plan."""

from __future__ import annotations

from typing import Annotated

import typer

from fewstep.cli.output import echo_json, echo_table
from fewstep.cli.recipes import Sets
from fewstep.cli.runs import RecipeArgument, TrustPlugins


def plan(
    recipe: RecipeArgument,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", min=1, max=65_536, help="number of GPUs")] = 1,
    gpu: Annotated[str, typer.Option("--gpu", metavar="NAME", help="b200, h200, h100, a100, a100-40, ...")] = "h200",
    memory: Annotated[float | None, typer.Option(metavar="GIB", min=1, help="memory of a GPU")] = None,
    price: Annotated[float | None, typer.Option(metavar="DOLLARS", min=0, help="of a GPU and hour")] = None,
    mfu: Annotated[float | None, typer.Option(min=0.001, max=1, help="share of the peak that is reached")] = None,
    launch: Annotated[float | None, typer.Option(metavar="US", min=0.001, help="microseconds an operator")] = None,
    peak: Annotated[float | None, typer.Option(metavar="TFLOP/S", min=0.001, help="of a GPU")] = None,
    bandwidth: Annotated[float | None, typer.Option(metavar="GB/S", min=0.001, help="from a GPU to others")] = None,
    node: Annotated[int, typer.Option(metavar="N", min=1, help="GPUs of a node")] = 8,
    reserve: Annotated[float, typer.Option(metavar="GIB", min=0, help="memory that tensors do not get")] = 2.0,
    vocab: Annotated[int | None, typer.Option(metavar="N", min=2, help="symbols, if the data are not here")] = None,
    length: Annotated[int | None, typer.Option(metavar="N", min=1, help="tokens a sample, likewise")] = None,
    sets: Sets = None,
    trust_plugins: TrustPlugins = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Memory, hours and cost of a training.

    Nothing is run; it needs neither a GPU nor the data.
    """
    from fewstep.core.plugins import trusting_plugins
    from fewstep.planning import report
    from fewstep.planning.hardware import gpu_named
    from fewstep.planning.machine import Request
    from fewstep.planning.plan import make_plan
    from fewstep.recipe import load_recipe

    request = Request(
        gpu_named(gpu),
        gpus,
        memory,
        price,
        mfu,
        None if launch is None else 1e-6 * launch,
        None if peak is None else 1e12 * peak,
        None if bandwidth is None else 1e9 * bandwidth,
        node,
        reserve,
        vocab,
        length,
    )
    with trusting_plugins(trust_plugins):
        loaded = load_recipe(recipe, sets or [], trust_plugins=True)
        result = make_plan(loaded.recipe, request)
    if as_json:
        echo_json(result.as_dict())
        return
    typer.secho(f"{result.recipe} on {result.gpus} x {result.gpu}", bold=True)
    for line in report.summary(result):
        typer.echo(f"  {line}")
    typer.echo("")
    echo_table("strategies", report.options(result))
    echo_table("memory of a GPU at its peak", report.memory(result))
    typer.secho("assumed", bold=True)
    for option, text in result.assumed.items():
        typer.echo(f"  {option:12} {text}")
    for remark in result.remarks:
        typer.echo(f"  {remark}")
    typer.echo(f"\n{report.verdict(result)}")

"""`fewstep grid`: search for the best step times of a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from fewstep.cli.lists import MAX_SEED, numbers
from fewstep.cli.output import echo_json, echo_table
from fewstep.cli.runs import Device, DeviceOption, RunArgument, TrustPlugins, Weights
from fewstep.core.plugins import trusting_plugins
from fewstep.sampling.request import MAX_COUNT


def grid(
    run: RunArgument,
    steps: Annotated[str, typer.Option(metavar="4,8,16", help="numbers of steps; one walk for each")],
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="file to write; in the run folder if left out")
    ] = None,
    times: Annotated[int, typer.Option(min=2, max=10_000, help="steps of the fine grid that is searched")] = 64,
    samples: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="samples of data to measure on")] = 512,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="seed of the measurement")] = 0,
    weights: Annotated[Weights, typer.Option(help="averaged weights, or those of the last step")] = Weights.ema,
    device: DeviceOption = Device.auto,
    trust_plugins: TrustPlugins = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Find the step times of least cost for a model. Writes a file for `grid: {type: measured, file: FILE}`."""
    from fewstep.evaluation.grid_search import grid_run

    with trusting_plugins(trust_plugins):
        path, grid_file = grid_run(run, numbers(steps), out, times, samples, seed, weights.value, device.value)
    if as_json:
        echo_json(grid_file.model_dump(mode="json"))
        return
    columns = ("cost", "linear", "cosine")
    rows = [
        {"steps": count, **{name: f"{getattr(walk, name):.4g}" for name in columns}}
        for count, walk in sorted(grid_file.walks.items())
    ]
    rows.append(
        {"steps": len(grid_file.fine_times) - 1, "cost": "", "linear": f"{grid_file.costs.finest:.4g}", "cosine": ""}
    )
    echo_table(f"{run}: negative ELBO, nats a sample", rows)
    typer.echo(f"wrote {path}")

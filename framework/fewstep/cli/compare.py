"""`fewstep compare`: options of the command. `fewstep.bench.running.comparison` compares."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from fewstep.cli.evaluate import (
    BatchSizeOption,
    MetricsOption,
    ModelsArgument,
    SamplesOption,
    SeedOption,
    StepsOption,
    WeightsOption,
    request_of,
)
from fewstep.cli.output import echo_json
from fewstep.cli.runs import Device, DeviceOption, SamplerOption, TrustPlugins
from fewstep.core.echo import printable
from fewstep.core.plugins import trusting_plugins

OutOption = Annotated[
    str | None, typer.Option(metavar="DIR", help="folder to write; results/compare-NAMES if left out")
]
ValueOption = Annotated[str | None, typer.Option(metavar="NAME", help="value of the plot")]
DiversityOption = Annotated[str | None, typer.Option(metavar="NAME", help="value of the second plot")]


def compare(
    models: ModelsArgument,
    out: OutOption = None,
    value: ValueOption = None,
    diversity: DiversityOption = None,
    metrics: MetricsOption = None,
    steps: StepsOption = None,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    sampler: SamplerOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = Device.auto,
    batch_size: BatchSizeOption = None,
    trust_plugins: TrustPlugins = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Put models side by side: values, curves, samples and recipes. Measures what is missing."""
    request = request_of(steps, samples, seed, sampler, metrics, weights, device, batch_size)
    from fewstep.bench.report.side_by_side import console_lines
    from fewstep.bench.running.comparison import compare_models

    command = shlex.join(["fewstep", *sys.argv[1:]])
    with trusting_plugins(trust_plugins):
        results, page = compare_models(models, request, out=out, value=value, diversity=diversity, command=command)
    if as_json:
        echo_json(results.model_dump(mode="json"))
        return
    for line in console_lines(results):
        typer.echo(printable(line))
    typer.echo(f"page: {page}")

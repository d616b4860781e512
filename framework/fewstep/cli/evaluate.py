"""`fewstep evaluate`: options of the command. `fewstep.evaluation` measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from fewstep.cli.lists import MAX_SEED, numbers
from fewstep.cli.output import echo_json, echo_table
from fewstep.cli.runs import Device, DeviceOption, SamplerOption, TrustPlugins, Weights
from fewstep.core.plugins import trusting_plugins
from fewstep.evaluation.request import EvaluationRequest
from fewstep.sampling.request import MAX_COUNT

ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="run folders, exported folders or files, names of `fewstep models`, or OWNER/NAME on the Hub",
    ),
]
StepsOption = Annotated[
    str | None, typer.Option("--steps", metavar="4,8", help="sampling steps; the recipe's if left out")
]
SamplesOption = Annotated[
    int | None,
    typer.Option("--samples", min=1, max=MAX_COUNT, help="samples for each number of steps; the recipe's if left out"),
]
MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", metavar="A,B", help="names, or a YAML list with settings; the recipe's if left out"),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="the same seed draws the same samples")]
WeightsOption = Annotated[
    Weights | None,
    typer.Option("--weights", help="averaged weights, or those of the last step; the recipe's if left out"),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, max=MAX_COUNT, help="samples drawn at once, without effect on their values"),
]


def evaluate(
    models: ModelsArgument,
    metrics: MetricsOption = None,
    steps: StepsOption = None,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    sampler: SamplerOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = Device.auto,
    batch_size: BatchSizeOption = None,
    track: Annotated[
        bool, typer.Option("--track", help="record new values with all trackers of a run, not TensorBoard alone")
    ] = False,
    trust_plugins: TrustPlugins = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Score samples of trained models. Values that are known already are not measured again."""
    request = replace(request_of(steps, samples, seed, sampler, metrics, weights, device, batch_size), track=track)
    from fewstep.evaluation.evaluate import evaluate_models

    with trusting_plugins(trust_plugins):
        evaluations = evaluate_models(models, request)
    rows = [(evaluation.target.name, row.public()) for evaluation in evaluations for row in evaluation.rows]
    if as_json:
        echo_json([{"model": name, **row} for name, row in rows])
    else:
        _echo(rows, seed)


def request_of(
    steps: str | None,
    samples: int | None,
    seed: int,
    sampler: str | None,
    metrics: str | None,
    weights: Weights | None,
    device: Device,
    batch_size: int | None,
) -> EvaluationRequest:
    """The request that the options make."""
    return EvaluationRequest(
        steps=None if steps is None else tuple(numbers(steps)),
        samples=samples,
        seed=seed,
        sampler=sampler,
        metrics=metrics,
        weights=None if weights is None else weights.value,
        device=device.value,
        batch_size=batch_size,
    )


def _echo(rows: Sequence[tuple[str, dict[str, Any]]], seed: int) -> None:
    """Print rows as a table; one model stands in the title, several in a column."""
    models = list(dict.fromkeys(name for name, _ in rows))
    passes = ["passes"] if any(row["passes"] not in (None, row["nfe"]) for _, row in rows) else []
    values = list(dict.fromkeys(value for _, row in rows for value in row["metrics"]))
    table = []
    for name, row in rows:
        costs = {key: row[key] for key in ("steps", "nfe", *passes, "samples")}
        scores = {value: f"{row['metrics'][value]:.4g}" if value in row["metrics"] else "" for value in values}
        table.append({**({"model": name} if len(models) > 1 else {}), **costs, **scores})
    echo_table(f"{models[0] if len(models) == 1 else f'{len(models)} models'}, seed {seed}", table)

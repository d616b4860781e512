"""`fewstep sample`: options of the command. `fewstep.sampling` draws the samples."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from fewstep.cli.lists import MAX_SEED, is_count
from fewstep.cli.runs import ClusterOption, Device, DeviceOption, RunArgument, SamplerOption, TrustPlugins, Weights
from fewstep.core.plugins import trusting_plugins
from fewstep.sampling.request import MAX_COUNT, Part, SampleRequest

Count = Annotated[int, typer.Option("-n", "--count", min=1, max=MAX_COUNT, help="number of samples")]
Steps = Annotated[
    int | None, typer.Option(min=1, max=MAX_COUNT, help="sampling steps; the model's own number if left out")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="the same seed draws the same samples")]
Out = Annotated[str | None, typer.Option(help="folder to write; inside the run folder if left out")]
WeightsOption = Annotated[Weights, typer.Option(help="averaged weights, or those of the last step")]
Temperature = Annotated[float | None, typer.Option(help="below 1 sharpens; the recipe's if left out")]
TopP = Annotated[float | None, typer.Option(help="share of probability to draw from; the recipe's if left out")]
Guidance = Annotated[float | None, typer.Option(min=0, help="weight of guidance by labels; the recipe's if left out")]
Label = Annotated[
    str | None,
    typer.Option(metavar="CLASS|all", help="class to draw, or all in turn; in the data's proportions if left out"),
]
Prompt = Annotated[str | None, typer.Option(metavar="TEXT", help="start of every sample, for text data")]
Infill = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="templates: a line of text each, or `tokens` in safetensors with -1 for blanks"),
]
Blank = Annotated[str | None, typer.Option(metavar="CHAR", help="blank of text templates; _ if left out")]
BatchSize = Annotated[
    str, typer.Option(metavar="N|auto", help="samples of a batch, without effect on their values; auto fits memory")
]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="draw the I-th of N shares; torchrun's share, or all samples, if left out"),
]
Resume = Annotated[bool, typer.Option("--resume", help="continue a job that was interrupted")]
Animate = Annotated[bool, typer.Option("--animate", help="also write an animation of the first samples")]


class CompileName(str, Enum):
    """Values of --compile."""

    off = "off"
    auto = "auto"
    trunk = "trunk"


Compile = Annotated[
    CompileName, typer.Option(help="compile the network's trunk, which takes a while and pays for many samples")
]


def sample(
    run: RunArgument,
    count: Count = 16,
    steps: Steps = None,
    seed: Seed = 0,
    out: Out = None,
    weights: WeightsOption = Weights.ema,
    sampler: SamplerOption = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    label: Label = None,
    prompt: Prompt = None,
    infill: Infill = None,
    blank: Blank = None,
    batch_size: BatchSize = "auto",
    device: DeviceOption = Device.auto,
    part: PartOption = None,
    cluster: ClusterOption = None,
    resume: Resume = False,
    animate: Animate = False,
    compile: Compile = CompileName.off,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Draw samples from a trained model."""
    from fewstep.sampling.job import sample_run

    request = SampleRequest(
        count=count,
        steps=steps,
        seed=seed,
        out=out,
        weights=weights.value,
        temperature=temperature,
        top_p=top_p,
        guidance=guidance,
        label=label,
        sampler=sampler,
        prompt=prompt,
        infill=infill,
        blank=blank,
        batch_size=_batch_size(batch_size),
        device=device.value,
        part=Part.parse(part),
        resume=resume,
        animate=animate,
        compile=compile.value,
    )
    with trusting_plugins(trust_plugins):
        if cluster is None:
            sample_run(run, request, say=typer.echo)
        else:
            from fewstep.sampling.distributed import sample_on_cluster

            sample_on_cluster(cluster, run, request, typer.echo)


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not is_count(text):
        raise typer.BadParameter(f"expected a number from 1, or auto, not '{text[:40]}'", param_hint="--batch-size")
    return int(text)

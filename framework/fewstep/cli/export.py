"""`fewstep export` and `fewstep push`: a run as a folder of its own, and that folder on the Hub."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from fewstep.cli.runs import RunArgument, Weights


class Dtype(str, Enum):
    """What weights are kept in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    run: RunArgument,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="new folder; export/NAME in the run folder if left out")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="averaged weights, or those of the last step")] = Weights.ema,
    dtype: Annotated[Dtype, typer.Option(help="what weights are kept in")] = Dtype.float32,
) -> None:
    """Write a trained model as a folder of its own. It samples without the run and the data, and has a card."""
    from fewstep.export.write import export_run

    path = export_run(run, out, weights=weights.value, dtype=dtype.value)
    typer.echo(f"wrote {path}")
    typer.echo(f'next: Pipeline.from_pretrained("{path}")   or   fewstep sample {path}')


def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="what `fewstep export` wrote")],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="repository of models; made if it is not there")],
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
) -> None:
    """Upload an exported model to the Hugging Face Hub. Needs the extra `hub`; the card comes along."""
    from fewstep.export.hub import push as upload

    typer.echo(f"pushed to {upload(folder, repo, private=private)}")

"""`fewstep export` writes a run as a self-contained folder; `fewstep push` uploads the folder to the Hub."""

from __future__ import annotations

import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.runs import RunArgument, TrustPlugins, Weights
from fewstep.core.errors import UserError
from fewstep.core.plugins import trusting_plugins


class Dtype(str, Enum):
    """Data type of exported weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    run: RunArgument,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="new folder; export/NAME in the run folder if left out")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="averaged weights, or those of the last step")] = Weights.ema,
    dtype: Annotated[Dtype, typer.Option(help="data type of the weights")] = Dtype.float32,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Write a trained model as a self-contained folder with a card. It samples without the run and the data."""
    from fewstep.export.write import export_run

    with trusting_plugins(trust_plugins):
        path = export_run(run, out, weights=weights.value, dtype=dtype.value)
    typer.echo(f"wrote {path}")
    typer.echo(f'next: Pipeline.from_pretrained("{path}")   or   fewstep sample {path}')


def push(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="folder that `fewstep export` wrote; several with --space")
    ],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="repository on the Hub; created if it is new")],
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be uploaded, no more")] = False,
    space: Annotated[
        bool, typer.Option("--space", help="upload a Space: the page of `fewstep demo`, with the models in it")
    ] = False,
) -> None:
    """Upload an exported model to the Hugging Face Hub. Needs the extra `hub`. Uploads the card too."""
    if space:
        _push_space(folders, repo, private, dry_run)
        return
    if len(folders) > 1:
        raise UserError(f"a repository holds one model, not {len(folders)}; push each alone, or all with --space")
    from fewstep.export.hub import push as upload
    from fewstep.export.hub import uploads
    from fewstep.runs.exported import Exported
    from fewstep.runs.shipped import model_path

    folder = model_path(folders[0])
    if dry_run:
        _echo_files(folder, uploads(Exported(folder)), f"https://huggingface.co/{repo}")
        return
    typer.echo(f"pushed to {upload(folder, repo, private=private)}")


def _push_space(models: list[str], repo: str, private: bool, dry_run: bool) -> None:
    from fewstep.export.space import push_space, write_space

    if not dry_run:
        typer.echo(f"pushed to {push_space(models, repo, private=private)}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        names = write_space(models, Path(scratch))
        _echo_files(Path(scratch), names, f"https://huggingface.co/spaces/{repo}")


def _echo_files(folder: Path, names: list[str], address: str) -> None:
    for name in names:
        typer.echo(f"{(folder / name).stat().st_size:>12,}  {name}")
    typer.echo(f"would be pushed to {address}")

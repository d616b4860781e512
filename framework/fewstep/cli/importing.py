"""`fewstep import`: options of the command. `fewstep.convert` does the import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.runs import TrustPlugins, Weights
from fewstep.core.plugins import trusting_plugins

Source = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="file, folder, or OWNER/NAME of the Hugging Face Hub")
]
LayoutOption = Annotated[
    str,
    typer.Option("--layout", metavar="NAME", help="layout of the checkpoint: mdlm, sdtt, idlm-mdlm, duo or idlm-duo"),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="the .safetensors file to write")]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE", help="recipe with the model's data; plain token ids if left out"),
]
Heads = Annotated[int | None, typer.Option(min=1, help="attention heads, if the checkpoint does not say")]
Length = Annotated[int | None, typer.Option(min=1, help="tokens a sample, if neither the checkpoint nor a recipe says")]
MaskId = Annotated[
    int | None, typer.Option("--mask-id", min=0, help="id of [MASK], if it is not the last row of the embedding")
]
Revision = Annotated[str | None, typer.Option(help="branch, tag or commit on the Hub")]
WeightsOption = Annotated[Weights, typer.Option(help="averaged or raw weights, if a training checkpoint has both")]


def import_(
    source: Source,
    layout: LayoutOption,
    out: Out,
    recipe: RecipeOption = None,
    heads: Heads = None,
    length: Length = None,
    mask_id: MaskId = None,
    revision: Revision = None,
    weights: WeightsOption = Weights.ema,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Convert a public checkpoint into a fewstep model. Exit code 2 if any of its keys does not fit."""
    from fewstep.convert.importing import ImportRequest, import_checkpoint

    request = ImportRequest(
        source=source,
        layout=layout,
        out=out,
        recipe=recipe,
        heads=heads,
        length=length,
        mask_id=mask_id,
        revision=revision,
        weights=weights.value,
        replace=force,
    )
    with trusting_plugins(trust_plugins):
        typer.echo(str(import_checkpoint(request)))

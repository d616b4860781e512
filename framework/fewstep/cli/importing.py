"""`fewstep import`: options and what they mean; the work is done in `fewstep.convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.cli.runs import Weights

Source = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="file, folder, or OWNER/NAME of the Hugging Face Hub")
]
LayoutOption = Annotated[
    str, typer.Option("--layout", metavar="NAME", help="whose layout: mdlm, sdtt, idlm-mdlm, duo or idlm-duo")
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="the .safetensors file to write")]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE", help="recipe whose data the model knows; bare token ids if left out"),
]
Heads = Annotated[int | None, typer.Option(min=1, help="attention heads, where the checkpoint does not tell")]
Length = Annotated[int | None, typer.Option(min=1, help="tokens a sample, where it does not tell and no recipe does")]
MaskId = Annotated[
    int | None, typer.Option("--mask-id", min=0, help="id of [MASK], if it is not the last row of the embedding")
]
Revision = Annotated[str | None, typer.Option(help="branch, tag or commit on the Hub")]
WeightsOption = Annotated[Weights, typer.Option(help="which weights of a training checkpoint that has both")]


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
    force: Annotated[bool, typer.Option("--force", help="replace what is there")] = False,
) -> None:
    """Turn a public checkpoint into a model of ours. Exit code 2 if any of its keys does not fit."""
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
    typer.echo(str(import_checkpoint(request)))

"""`fewstep models`: the trained models that come with fewstep."""

from __future__ import annotations

from typing import Annotated

import typer

from fewstep.cli.output import echo_json, echo_table


def models(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the trained models that come with fewstep. They sample without training, data or network."""
    from fewstep.runs.shipped import OWNER, manifest, model_path

    known = manifest().models
    if as_json:
        echo_json(
            [{"name": name, "path": str(model_path(name)), **model.model_dump()} for name, model in known.items()]
        )
        return
    echo_table(
        "models",
        [
            {
                "name": name,
                "steps": model.steps,
                "weights": f"{model.parameters / 1e6:.2f} M",
                "size": f"{model.bytes / 1e6:.1f} MB",
                "summary": model.summary,
            }
            for name, model in known.items()
        ],
    )
    if known:
        first = next((name for name in known if name.endswith("-dmmd")), next(iter(known)))
        typer.echo(f'next: fewstep sample {first}   or   Pipeline.from_pretrained("{OWNER}/{first}")')

"""`fewstep new-plugin`: the folder of a plugin to start from."""

from __future__ import annotations

from typing import Annotated

import typer


def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="of the distribution, such as fewstep-mine")],
    kind: Annotated[str, typer.Option(help="of its component: objective, sampler, ... as `fewstep list` names them")],
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="new folder; NAME if left out")] = None,
) -> None:
    """Write a plugin to start from.

    It is a distribution with a component, its test, a recipe and a page.
    """
    from fewstep.testing.new_plugin import new_plugin as write

    plugin, path = write(name, kind, out)
    typer.echo(f"wrote {path}: edit {path}/src/{plugin.package}/{plugin.component}.py")
    names = [*filter(None, [plugin.trained_before]), f"{path}/{plugin.recipe}"]
    commands = [f"pip install -e {path}", f"python -m pytest {path}", *(f"fewstep train {name}" for name in names)]
    typer.echo(f"next: {'   '.join(commands)}")

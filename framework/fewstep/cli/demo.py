"""`fewstep demo`: options of the command. `fewstep.demo` serves the page."""

from __future__ import annotations

from typing import Annotated

import typer

from fewstep.cli.lists import model_names
from fewstep.cli.runs import Device, DeviceOption, TrustPlugins
from fewstep.core.errors import UserError
from fewstep.core.plugins import trusting_plugins

PAIRS = (("glyphs-teacher", "glyphs-dmmd"), ("digits-teacher", "digits-dmmd"))
"""Shipped models, the first of which are shown if none is named."""


def demo(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="up to four models of the same data, beside each other; a shipped teacher and student if left out",
            autocompletion=model_names,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the page")] = 7860,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="where to listen; 0.0.0.0 lets other machines in")
    ] = "127.0.0.1",
    share: Annotated[bool, typer.Option("--share", help="give the page a public address, by gradio's tunnel")] = False,
    device: DeviceOption = Device.auto,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Serve a page on which models draw side by side. Needs the extra `demo`. Only this machine can open it."""
    from fewstep.demo.serve import serve
    from fewstep.runs.shipped import manifest

    shown = models or next((pair for pair in PAIRS if set(pair) <= manifest().models.keys()), None)
    if shown is None:
        raise UserError("this installation has no models of its own; name some: fewstep demo TEACHER STUDENT")
    with trusting_plugins(trust_plugins):
        serve(
            shown,
            host=host,
            port=port,
            share=share,
            device=device.value,
            trust_plugins=trust_plugins,
            say=lambda line: typer.echo(line),
        )

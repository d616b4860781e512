"""`fewstep new-study`: options of the command. `fewstep.bench.studies` writes the study."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from fewstep.cli.runs import Device, DeviceOption


class Kind(str, Enum):
    """What a sample is."""

    auto = "auto"
    lines = "lines"
    text = "text"
    pictures = "pictures"


class Colour(str, Enum):
    """Channels of pictures."""

    auto = "auto"
    grey = "grey"
    rgb = "rgb"


def new_study(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="new folder for recipes, suite and results")],
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="PATH", help="text, CSV, TSV, JSON lines, Parquet, or a folder of these or of pictures"
        ),
    ],
    minutes: Annotated[
        float, typer.Option(min=0.1, max=100_000, help="time of the whole comparison on this machine")
    ] = 30.0,
    kind: Annotated[
        Kind, typer.Option(help="a sample is a line, a window of the text, or a picture; auto looks at the data")
    ] = Kind.auto,
    field: Annotated[str | None, typer.Option(metavar="COLUMN", help="column or key of the texts of a table")] = None,
    colour: Annotated[Colour, typer.Option(help="of pictures; auto takes grey")] = Colour.auto,
    size: Annotated[
        int | None, typer.Option(min=4, max=64, metavar="PIXELS", help="of a side of pictures; chosen if left out")
    ] = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Write a comparison of student and teacher on your data.

    Sizes are chosen for the machine's time, which a few steps of each training measure.
    """
    from fewstep.bench.studies.study import StudyRequest
    from fewstep.bench.studies.study import new_study as write

    request = StudyRequest(data, minutes, kind.value, field, colour.value, size, device.value)
    study = write(folder, request, typer.echo)
    typer.echo(f"wrote {study.folder}: {' '.join(sorted(file.name for file in study.folder.iterdir()))}")
    for name, text in study.facts.items():
        typer.echo(f"  {name:14} {text}")
    for line in study.expectations:
        typer.echo(f"  note: {line}")
    typer.echo(f"next: {study.command}")

"""`fewstep new-study`: from a path to recipes and a suite that compare a D-MMD student with its teacher."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from fewstep.bench.studies.budget import ENOUGH, Budget, choose
from fewstep.bench.studies.files import Design, write_files
from fewstep.bench.studies.looked_at import OwnData
from fewstep.bench.studies.measure import Speed, measure
from fewstep.bench.studies.own_data import look_at_text
from fewstep.bench.studies.own_pictures import holds_pictures, look_at_pictures
from fewstep.bench.studies.sizes import sizes_of
from fewstep.bench.suites.loading import load_suite
from fewstep.core.errors import UserError
from fewstep.recipe import load_recipe
from fewstep.runtime.device import resolve_device

Kind = Literal["auto", "lines", "text", "pictures"]
Colour = Literal["auto", "grey", "rgb"]
_T = TypeVar("_T")
_OPTIONS = {"path": "--data", "field": "--field"}
_BUSY = 0.35
"""Share of the processor's time below which other programs have it; start-up and reading take some of it too."""
_MEASURED_PICTURES = 256
"""Pictures that are read while speeds are measured."""


@dataclass(frozen=True)
class StudyRequest:
    """What a study is asked for.

    Args:
        data: file, folder, glob or archive.
        minutes: time of the whole comparison on this machine.
        kind: what a sample is; "auto" looks.
        field: column of a table that holds the texts.
        size: pixels a side of pictures; None chooses.
        device: "auto", "cpu" or "cuda"; measured on it, and written into the recipes.
    """

    data: str
    minutes: float = 30.0
    kind: Kind = "auto"
    field: str | None = None
    colour: Colour = "auto"
    size: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Study:
    """A study that was written, and what to say of it."""

    design: Design
    speed: Speed
    budget: Budget
    folder: Path
    minutes: float

    @property
    def command(self) -> str:
        """Command that runs it."""
        folder = self.design.folder
        return f"fewstep benchmark {folder}/suite.yaml --out {folder}/results"

    @property
    def facts(self) -> dict[str, str]:
        """What was chosen, by name."""
        design, speed, seconds = self.design, self.speed, self.budget.seconds
        tokens = f"{speed.length} tokens of {speed.vocab} symbols"
        if not design.is_text:
            side = design.size.tokens
            tokens = f"{side}x{side} pixels, {tokens}"
        trainings = "; ".join(
            f"{name} {round(share * design.steps):,} steps, {_duration(seconds[name])}"
            for name, share in design.shares.items()
        )
        return {
            "data": design.data.label,
            "samples": tokens,
            "network": f"{speed.parameters:,} weights, width {design.size.width}, depth {design.size.depth}",
            "trainings": trainings,
            "samples drawn": f"{design.samples} a row; drawing and scoring {_duration(seconds['samples'])}",
            "in all": _duration(seconds["all"]),
        }

    @property
    def expectations(self) -> list[str]:
        """What to expect, as sentences."""
        lines = list(self.design.data.remarks)
        if self.speed.share < _BUSY:
            lines.append("other programs ran on this machine while it was measured; alone it trains more in that time")
        if self.budget.needed > self.minutes:
            lines.append(
                f"{self.minutes:g} minutes train the teacher for {self.design.steps:,} steps, too few for samples that "
                f"are worth a comparison; from about {_rounded(self.budget.needed)} minutes on it gets {ENOUGH:,}"
            )
        elif self.budget.seconds["all"] < 30 * self.minutes:
            lines.append("more time would train nothing better: the data are few, or the largest network is taken")
        value = "Gradient Moment" if self.design.is_text else "the Frechet distance in a small classifier's features"
        lines.append(
            f"the report says whether the student at 8 evaluations is worse than its teacher at 32, by {value}, "
            "and shows real samples beside them; ± is over two seeds of sampling, and of one training each"
        )
        return lines


def new_study(folder: str, request: StudyRequest, say: Callable[[str], None]) -> Study:
    """Look at the data, measure this machine, and write the study.

    Args:
        folder: new folder.
        say: console.

    Raises:
        UserError: the folder is not empty, there is no such device, or the data are none that a study can be made of.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"'{folder}' exists already; name another folder, or delete it")
    resolve_device(request.device, "--device")
    data = _of_option(lambda: look_at(request))
    say(f"data: {data.label}")
    with _new_folder(path), tempfile.TemporaryDirectory(prefix="fewstep-study-") as place:
        design = Design(
            _name(path),
            shlex.quote(folder.rstrip("/")),
            data,
            sizes_of(data)[0],
            path / "prepared",
            device=request.device,
        )
        say("measuring a few steps on this machine ...")
        numbers = iter(range(100))

        def measured(candidate: Design) -> Speed:
            limited = candidate if candidate.is_text else replace(candidate, limit=_MEASURED_PICTURES)
            return measure(limited, Path(place) / str(next(numbers)))

        sizes = sizes_of(data, request.size)
        chosen, speed, result = _of_option(lambda: choose(design, sizes, request.minutes, measured))
        words = {name: _duration(seconds) for name, seconds in result.seconds.items()}
        study = Study(replace(chosen, minutes=words), speed, result, path, request.minutes)
        _write(study)
    return study


def look_at(request: StudyRequest) -> OwnData:
    """What the path holds.

    Raises:
        UserError: it is not there, or an option does not suit it.
    """
    path, kind = Path(request.data).expanduser(), request.kind
    pictures = kind == "pictures" or (kind == "auto" and holds_pictures(path))
    if not pictures:
        if request.size is not None or request.colour != "auto":
            raise UserError(f"--size and --colour are for pictures, and '{request.data}' holds none; leave them out")
        assert kind != "pictures"
        return look_at_text(path, kind, request.field)
    if kind == "pictures" and path.exists() and not holds_pictures(path):
        raise UserError(f"--kind pictures: '{request.data}' holds none; name a folder or a .zip of pictures")
    if request.field is not None:
        raise UserError(f"--field names a column, and '{request.data}' holds pictures; leave it out")
    return look_at_pictures(path, request.colour)


def _write(study: Study) -> None:
    """Write the files, and check them as a suite is checked."""
    design = study.design
    table = "\n".join(f"| {key} | {text} |" for key, text in study.facts.items())
    trainings = ", ".join(design.trained[:-1]) + f" and {design.trained[-1]}"
    readme = design.filled(
        "README.md",
        table=f"| | |\n|---|---|\n{table}",
        expectations="\n".join(f"* {line[0].upper()}{line[1:]}." for line in study.expectations),
        trainings=f"a {trainings}",
    )
    write_files({**design.recipes(), **design.suite(), "README.md": readme}, study.folder)
    load_suite(str(study.folder / "suite.yaml"))
    for name in design.trained:
        load_recipe(study.folder / f"{name}.yaml")


@contextmanager
def _new_folder(path: Path) -> Iterator[None]:
    """The folder, made now, and removed again if the study does not come about."""
    before = path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if before:
            path.mkdir()
        raise


def _of_option(task: Callable[[], _T]) -> _T:
    """Messages about a recipe's data, as messages about the option."""
    try:
        return task()
    except UserError as error:
        raise UserError(re.sub(r"^data\.(path|field)\b", lambda key: _OPTIONS[key[1]], str(error))) from None


def _name(path: Path) -> str:
    """A name for recipes from that of the folder."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.absolute().name).strip("-_")
    return name or "study"


def _rounded(minutes: float) -> int:
    return max(1, round(minutes))


def _duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"

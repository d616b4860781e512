"""`fewstep train`, `distill`, `evaluate` and `benchmark`: options of the commands."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from fewstep.cli.lists import model_names, recipe_names, suite_names
from fewstep.cli.recipes import Sets
from fewstep.core.plugins import trusting_plugins

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="path, or name of a shipped recipe", autocompletion=recipe_names)
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="run folder, exported folder or file, or a name of `fewstep models`; `runs/NAME/latest` is the newest run",
        autocompletion=model_names,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="run folder of the teacher, exported folder or file, or a name of `fewstep models`",
        autocompletion=model_names,
    ),
]
RunFolder = Annotated[str | None, typer.Option("--run-dir", help="new folder for the run; chosen if left out")]
Resume = Annotated[
    str | None, typer.Option(metavar="auto|RUN", help="continue a run; auto takes the recipe's newest unfinished one")
]
TrustPlugins = Annotated[
    bool,
    typer.Option("--trust-plugins", help="run plugin files and modules that models list; they can do anything"),
]
SamplerOption = Annotated[
    str | None,
    typer.Option("--sampler", metavar="YAML", help="name or {type: NAME, ...}; replaces the recipe's sampler"),
]


ClusterOption = Annotated[
    str | None,
    typer.Option(metavar="FILE|ADDRESS", help="run tasks on a Dask cluster: a YAML file, or tcp://HOST:PORT"),
]


class Device(str, Enum):
    """Where networks compute; auto takes a GPU if there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DeviceOption = Annotated[Device, typer.Option("--device", help="where networks compute; auto is a GPU if there is one")]
TrainDevice = Annotated[
    Device | None, typer.Option("--device", help="where networks compute, short for --set train.device=DEVICE")
]


class Weights(str, Enum):
    """Weights of a model: averaged, or of the last step."""

    ema = "ema"
    raw = "raw"


def train(
    recipe: RecipeArgument,
    teacher: Teacher = None,
    run_dir: RunFolder = None,
    resume: Resume = None,
    device: TrainDevice = None,
    sets: Sets = None,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Train the model of a recipe. Runs the plugins that the recipe lists."""
    from fewstep.training.launch import launch

    with trusting_plugins(trust_plugins):
        launch(recipe, teacher=teacher, run_dir=run_dir, resume=resume, sets=_all_sets(sets, device))


def distill(
    recipe: RecipeArgument,
    teacher: Teacher = None,
    run_dir: RunFolder = None,
    resume: Resume = None,
    device: TrainDevice = None,
    sets: Sets = None,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Distil a teacher into a student. Trains with the teacher of --teacher or of the recipe."""
    from fewstep.training.launch import launch

    with trusting_plugins(trust_plugins):
        launch(recipe, teacher=teacher, run_dir=run_dir, resume=resume, sets=_all_sets(sets, device), distil=True)


def benchmark(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="path, or name of a shipped suite", autocompletion=suite_names)
    ],
    out: Annotated[str | None, typer.Option(help="folder for results; chosen if left out")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="reduced run, to check that the suite works")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="number of processes, each with one model at a time")] = 1,
    cluster: ClusterOption = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="BASE", help="earlier results (file or folder); exit code 1 if a value is worse"),
    ] = None,
    reuse: Annotated[
        list[str] | None,
        typer.Option(metavar="RESULTS", help="take rows from other results (file or folder); may be repeated"),
    ] = None,
    keep_code: Annotated[
        bool, typer.Option("--keep-code", help="reuse models and rows of other code of fewstep")
    ] = False,
    device: TrainDevice = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change one key of every recipe; may be repeated"),
    ] = None,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Run a suite and write tables and plots. A suite names recipes, numbers of steps and seeds."""
    from fewstep.bench.running.runner import run_suite

    with trusting_plugins(trust_plugins):
        run_suite(
            suite,
            out,
            quick,
            _all_sets(sets, device),
            jobs=jobs,
            cluster=cluster,
            keep_code=keep_code,
            base=compare,
            reuse=reuse or [],
        )


def _all_sets(sets: list[str] | None, device: Device | None) -> list[str]:
    """Changes of keys, with that of --device last."""
    return [*(sets or []), *([] if device is None else [f"train.device={device.value}"])]

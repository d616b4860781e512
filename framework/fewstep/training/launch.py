"""`fewstep train` and `fewstep distill`: from a recipe's name to a finished run folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from fewstep.core.errors import FewstepError, UserError
from fewstep.core.plugins import untrusted
from fewstep.core.references import Reference, replace_references
from fewstep.data.base import Dataset
from fewstep.denoisers.network import BackboneNetwork
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import LoadedRecipe, dump_recipe, load_recipe, load_run_recipe
from fewstep.recipe.models import Recipe
from fewstep.recipe.yaml_loader import load_mapping, read_text
from fewstep.runs.environment import describe_environment
from fewstep.runs.exported import is_exported
from fewstep.runs.folder import RUNS, RunDir
from fewstep.runs.shipped import model_path
from fewstep.runtime.compiling import compiles
from fewstep.runtime.console import say
from fewstep.runtime.device import resolve_device
from fewstep.runtime.files import rewrite
from fewstep.runtime.precision import resolve_precision
from fewstep.runtime.ranks import ALONE, Ranks, ranks_of_environment
from fewstep.trackers.base import refuse_missing
from fewstep.training.agreement import agree_on_recipe
from fewstep.training.trainer import FitResult, Trainer

_MAY_CHANGE = {
    "train.steps",
    "data.readers",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep_last",
    "train.keep_every",
    "train.non_finite",
    "train.spike",
    "train.spike.window",
    "train.spike.factor",
    "train.spike.action",
    "train.mishap_budget",
    "train.timeout_minutes",
    "train.device",
    "train.compile",
    "trackers",
    "parallel.strategy",
    "parallel.shards",
    "parallel.backend",
    "parallel.timeout_minutes",
    "evaluate.compile",
}
"""Settings that a resumed run may change. Paths in references may change too, since their contents are checked."""


def launch(
    source: str | Path | Mapping[str, object],
    *,
    teacher: str | None = None,
    run_dir: str | None = None,
    resume: str | None = None,
    sets: Sequence[str] = (),
    distil: bool = False,
    echo: Callable[[str], None] = say,
) -> Path:
    """Train a recipe (shipped name, path or content) in a new run folder, or continue an old one.

    The plugins that the recipe lists are imported, and no others: not those of its teacher, nor of a resumed run.

    Args:
        resume: a run folder, or "auto" for the recipe's newest run that is not finished (a new one if none).
        distil: refuse a recipe without a teacher.
        echo: where console lines go.

    Raises:
        FewstepError: with a message of one sentence for the command line.
    """
    loaded = load_recipe(source, sets, teacher=teacher, trust_plugins=True)
    if distil and loaded.recipe.teacher is None:
        name = loaded.recipe.name if isinstance(source, Mapping) else source
        raise UserError(
            f"recipe '{name}' trains without a teacher; name one with --teacher RUN, or use `fewstep train`"
        )
    loaded = _with_real_runs(loaded)
    resolve_device(loaded.recipe.train.device)  # fails before a folder is made
    refuse_missing(loaded.recipe.trackers)
    section = loaded.recipe.parallel
    with ranks_of_environment(section.backend, loaded.recipe.train.device, section.timeout_minutes) as ranks:
        agree_on_recipe(loaded.recipe, ranks)
        if ranks.first:
            return _launch(loaded, ranks, run_dir, resume, echo)
        run = RunDir(Path(ranks.of_first("")))
        fit(loaded, run, ranks=ranks)
        ranks.wait()
        return run.path


def _launch(
    loaded: LoadedRecipe, ranks: Ranks, run_dir: str | None, resume: str | None, echo: Callable[[str], None]
) -> Path:
    """Train as the first rank, which finds or makes the run folder."""
    recipe = loaded.recipe
    run = _resumed(recipe, resume, run_dir) if resume else _restarted(recipe, run_dir)
    with nullcontext(run) if run else _new_run(recipe.name, run_dir) as run:
        echo(f"run folder: {run.path}")
        if ranks.several:
            rewrite(run.job, _job() + "\n")
        ranks.of_first(str(run.path.absolute()))
        result = fit(loaded, run, echo=echo, ranks=ranks)
        ranks.wait()
    if result.finished:
        echo(f"finished: {run.path}")
        echo(f"next: {_next(recipe, run)}")
    return run.path


def _job() -> str:
    """Name of the call of torchrun that started this process; its restarts have the same."""
    return f"{socket.gethostname()} {os.getppid()} {os.environ.get('TORCHELASTIC_RUN_ID', '')}"


def _restarted(recipe: Recipe, run_dir: str | None) -> RunDir | None:
    """The run that this call of torchrun began before it restarted its processes, if it has a checkpoint."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    runs = [RunDir(Path(run_dir))] if run_dir else [RunDir(path) for path in sorted((RUNS / recipe.name).glob("*"))]
    begun = [run for run in runs if run.job.exists() and run.job.read_text(encoding="utf-8").strip() == _job()]
    return begun[-1] if begun and begun[-1].last_checkpoint() else None


@contextmanager
def _new_run(name: str, path: str | None) -> Iterator[RunDir]:
    """A new run folder. If the training fails before its first step, what was made is removed again."""
    folders = (Path(path), *Path(path).parents) if path else (RUNS / name, RUNS)
    missing = [folder for folder in folders if not folder.exists()]
    run = RunDir.create(name, path)
    try:
        yield run
    except BaseException:
        if not run.status.get("step"):
            shutil.rmtree(run.path, ignore_errors=True)
            if path and not missing:
                run.path.mkdir()
            for folder in missing:
                with suppress(OSError):  # another run has come into it
                    folder.rmdir()
        raise


def _next(recipe: Recipe, run: RunDir) -> str:
    """Suggestion of a next command for a finished run."""
    text = OBJECTIVES.get(recipe.objective.type).cls.roles["student"].network.next_step.format(run=run.path)
    return (
        f"{text}   (add --trust-plugins: its plugins are code that is not installed)"
        if untrusted(recipe.plugins)
        else text
    )


def fit(
    loaded: LoadedRecipe,
    run: RunDir,
    *,
    dataset: Dataset | None = None,
    echo: Callable[[str], None] = say,
    ranks: Ranks = ALONE,
) -> FitResult:
    """Train in `run`, which is new or holds an earlier part of the same training.

    Args:
        ranks: processes that share the training; each calls this with the same recipe and run.
    """
    with ranks.in_turn():  # the others read what the first one settles
        loaded = _with_settled_precision(loaded, run)
        if ranks.first:
            prepare(loaded, run)
    try:
        trainer = Trainer.from_recipe(loaded.recipe, run, dataset=dataset, echo=echo, ranks=ranks)
        if ranks.first:
            _record_environment(trainer, loaded.recipe.name)
    except FewstepError as error:
        if ranks.first:
            run.set_status("failed", error=str(error))
        raise
    return trainer.fit()


def _with_settled_precision(loaded: LoadedRecipe, run: RunDir) -> LoadedRecipe:
    """Replace `train.precision: auto` by what the run began with, or by what it means on this device.

    A run then says what it was trained in, and goes on in it on another device.
    """
    train = loaded.recipe.train
    if train.precision != "auto":
        return loaded
    stored = "auto"
    if run.resolved.exists():
        stored = load_run_recipe(run.resolved, plugins=loaded.recipe.plugins).train.precision
    precision = resolve_precision("auto", resolve_device(train.device)) if stored == "auto" else stored
    settled = train.model_copy(update={"precision": precision})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"train": settled}))


def _record_environment(trainer: Trainer, name: str) -> None:
    """Print a summary of the training, and write `environment.json`.

    Raises:
        UserError: a setting is not supported on this device.
    """
    student = trainer.roles["student"]
    settled = student.backbone.settled(trainer.device.type) if isinstance(student, BackboneNetwork) else {}
    choices = {"device": trainer.device.type, **settled}
    if compiles(trainer.settings.train.compile, trainer.device):
        choices["compile"] = "trunk"
    summary = ", ".join(f"{key} {value}" for key, value in choices.items())
    size = sum(p.numel() for p in student.parameters())
    trainer.echo(f"{name}: {size:,} parameters, {len(trainer.dataset):,} samples, {summary}")
    samples, batch = len(trainer.dataset), trainer.settings.train.batch_size
    if samples < batch:
        advice = "; see how data.documents and data.length cut the text" if trainer.dataset.kind == "text" else ""
        trainer.echo(
            f"warning: {samples:,} training sample{'s' * (samples > 1)}, fewer than a batch of {batch} "
            f"(train.batch_size), which repeats them{advice}"
        )
    if trainer.dataset.remark:
        trainer.echo(f"note: {trainer.dataset.remark}")
    record = {
        "command": shlex.join(sys.argv),
        **describe_environment(),
        **choices,
        "data": trainer.dataset.fingerprint,
        **({"data_remark": trainer.dataset.remark} if trainer.dataset.remark else {}),
        "seed": trainer.settings.seed,
    }
    rewrite(trainer.run.environment, json.dumps(record, indent=2) + "\n")


def prepare(loaded: LoadedRecipe, run: RunDir) -> None:
    """Write the recipe into a run folder, as read and as resolved.

    Raises:
        UserError: the folder holds a run of a different recipe.
    """
    if run.resolved.exists():
        # The folder's own plugins are not imported, which another may have written.
        before = load_run_recipe(run.resolved, plugins=loaded.recipe.plugins)
        changed = [
            key for key in _differences(_strip_paths(loaded.recipe), _strip_paths(before)) if key not in _MAY_CHANGE
        ]
        changed += ["plugins"] if _other_plugins(loaded.recipe, run) else []
        if changed:
            raise UserError(
                f"run '{run.path}' was made by another recipe (different: {', '.join(changed)}); "
                "resume it with its own recipe, or start a new run"
            )
    run.path.mkdir(parents=True, exist_ok=True)
    rewrite(run.recipe, loaded.text)
    rewrite(run.resolved, dump_recipe(loaded.recipe))
    for plugin in [Path(name) for name in loaded.recipe.plugins if name.endswith(".py")]:
        run.plugins.mkdir(exist_ok=True)
        shutil.copy(plugin, run.plugins / plugin.name)


def _other_plugins(recipe: Recipe, run: RunDir) -> bool:
    """Whether a run's recipe lists other plugins; files may have moved."""
    content = load_mapping(read_text(run.resolved), str(run.resolved)).plain().get("plugins") or []
    names = content if isinstance(content, list) else [content]
    return [Path(str(name)).name for name in names] != [Path(name).name for name in recipe.plugins]


def _strip_paths(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain data without the paths of its references, which may have moved."""
    return replace_references(recipe, lambda named: "").model_dump(mode="json")


def _with_real_runs(loaded: LoadedRecipe) -> LoadedRecipe:
    """Replace `.../latest` by the folder that it stands for, so that the run records the networks it began with.

    References of samplers and metrics that do not exist yet are not changed.

    Raises:
        UserError: there is no such run.
    """

    def resolve(named: Reference) -> str:
        if named.kind == "file":
            return named.value
        path = model_path(named.value)
        try:
            exported = path.suffix == ".safetensors" or is_exported(path)
            return str((path if exported else RunDir.open(path).path).absolute())
        except UserError as error:
            if named.key.split(".")[0] in ("sampler", "evaluate"):
                return named.value
            raise UserError(f"{named.key}: {error}") from None

    return replace(loaded, recipe=replace_references(loaded.recipe, resolve))


def _resumed(recipe: Recipe, resume: str, run_dir: str | None) -> RunDir | None:
    if resume != "auto":
        return RunDir.open(resume)
    if run_dir:
        return RunDir.open(run_dir) if (Path(run_dir) / "recipe.resolved.yaml").exists() else None
    runs = [RunDir(p.parent) for p in sorted((RUNS / recipe.name).glob("*/recipe.resolved.yaml"))]
    unfinished = [run for run in runs if run.status["state"] != "finished"]
    return unfinished[-1] if unfinished else None


def _differences(a: object, b: object, path: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for key in keys for d in _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
    return [] if a == b else [path]

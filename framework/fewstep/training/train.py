"""`fewstep.train` and `fewstep.distill`: the commands of these names, as functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

from fewstep.core.plugins import trusting_plugins
from fewstep.core.python_words import python_words
from fewstep.runs.folder import RunDir
from fewstep.runtime.console import say_in_python
from fewstep.training.launch import launch

Place = str | PathLike[str]
Changes = Mapping[str, object]
"""Values by dotted key, such as {"train.steps": 100}."""


@python_words()
def train(
    recipe: Place | Mapping[str, object],
    *,
    teacher: Place | None = None,
    run_dir: Place | None = None,
    resume: Place | None = None,
    changes: Changes | None = None,
    trust_plugins: bool = False,
    quiet: bool = False,
) -> RunDir:
    """Train the model of a recipe, as `fewstep train` does; `Pipeline.from_pretrained` opens the run that it returns.

    Args:
        recipe: name of a shipped recipe, path of a file, or the recipe itself as plain data, which may name
            components that a notebook has registered: `{"extends": "smoke-teacher", "objective": "mine"}`.
        teacher: run folder or exported file in the place of the recipe's teacher.
        run_dir: new folder for the run; None for `runs/NAME/TIME`.
        resume: a run to continue, or "auto" for the recipe's newest one that is not finished.
        changes: values by dotted key, such as `{"train.steps": 100}`.
        trust_plugins: run the plugin files and modules that models list which the recipe names. Those of the recipe
            itself run in any case.
        quiet: print nothing.

    Returns:
        The run folder; its `status` says whether the training has finished or was stopped (Ctrl-C saves and stops).

    Raises:
        UserError: the recipe is wrong (`RecipeError`, with all its problems), or a model or folder does not suit it.
        OperationError: the training failed.
    """
    return _launched(recipe, teacher, run_dir, resume, changes, trust_plugins, quiet, distil=False)


@python_words()
def distill(
    recipe: Place | Mapping[str, object],
    teacher: Place | None = None,
    *,
    run_dir: Place | None = None,
    resume: Place | None = None,
    changes: Changes | None = None,
    trust_plugins: bool = False,
    quiet: bool = False,
) -> RunDir:
    """Distil a teacher into a student, as `fewstep distill` does. Arguments are those of `train`.

    Args:
        teacher: run folder or exported file; None for the teacher that the recipe names.

    Raises:
        UserError: as `train`; or there is no teacher.
        OperationError: the training failed.
    """
    return _launched(recipe, teacher, run_dir, resume, changes, trust_plugins, quiet, distil=True)


def as_sets(changes: Changes | None) -> list[str]:
    """Changes in the form of `--set KEY=VALUE`; JSON is YAML too."""
    return [f"{key}={json.dumps(_plain(value), ensure_ascii=False)}" for key, value in (changes or {}).items()]


def _launched(
    recipe: Place | Mapping[str, object],
    teacher: Place | None,
    run_dir: Place | None,
    resume: Place | None,
    changes: Changes | None,
    trust_plugins: bool,
    quiet: bool,
    *,
    distil: bool,
) -> RunDir:
    source: str | Path | Mapping[str, object]
    if isinstance(recipe, Mapping):
        source = {str(key): _plain(value) for key, value in recipe.items()}
    else:
        source = recipe if isinstance(recipe, str) else Path(recipe)
    folders = [None if path is None else fspath(path) for path in (teacher, run_dir, resume)]
    with trusting_plugins(trust_plugins):
        path = launch(
            source,
            teacher=folders[0],
            run_dir=folders[1],
            resume=folders[2],
            sets=as_sets(changes),
            distil=distil,
            echo=_nowhere if quiet else say_in_python,
        )
    return RunDir(path)


def _plain(value: object) -> object:
    """A value as a recipe holds it: paths as text, tuples as lists."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _nowhere(line: str) -> None:
    """Where quiet trainings print."""

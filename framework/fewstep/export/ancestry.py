"""The chain of teachers that a model descends from, by name and by digest of their weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fewstep.core.errors import FewstepError
from fewstep.recipe import load_run_recipe, parse_recipe
from fewstep.recipe.models import Recipe, TeacherSection
from fewstep.runs.checkpoint import import_weights, load_checkpoint
from fewstep.runs.exported import Ancestor, Exported, is_exported
from fewstep.runs.folder import RunDir
from fewstep.runtime.digest import digest


def ancestors(recipe: Recipe) -> tuple[Ancestor, ...]:
    """The recipe's teacher, that one's teacher and so on; the chain ends where a run is gone."""
    found: list[Ancestor] = []
    section = recipe.teacher
    while section is not None:
        try:
            ancestor, above = _read(section)
        except (FewstepError, KeyError):
            return (*found, Ancestor(name=_called(section.run), weights=section.weights))
        found.append(ancestor)
        if isinstance(above, tuple):
            return (*found, *above)
        section = above.teacher
    return tuple(found)


def state_digest(state: dict[str, Tensor]) -> str:
    """Digest of weights by name."""
    return digest(*(tensor for _, tensor in sorted(state.items())))


def _read(section: TeacherSection) -> tuple[Ancestor, Recipe | tuple[Ancestor, ...]]:
    """A teacher, and its recipe or what is known of those before it."""
    path = Path(section.run)
    if is_exported(path):
        told = Exported(path)
        ancestor = _ancestor(told.recipe(), told.config.step, told.config.weights, told.config.weights_digest)
        return ancestor, told.config.teachers
    if path.suffix == ".safetensors":
        state, metadata = import_weights(path)
        recipe, step = parse_recipe(metadata["recipe"], source=str(path)), int(metadata["step"])
    else:
        run = RunDir.open(path)
        checkpoint = run.last_checkpoint()
        if checkpoint is None:
            raise KeyError(section.run)
        recipe, step = load_run_recipe(run.resolved), int(checkpoint.name.removeprefix("step-"))
        state = load_checkpoint(checkpoint, "ema/weights" if section.weights == "ema" else "roles/student")
    return _ancestor(recipe, step, section.weights, state_digest(state)), recipe


def _ancestor(recipe: Recipe, step: int, weights: str, found: str) -> Ancestor:
    return Ancestor.model_validate(
        {
            "name": recipe.name,
            "objective": recipe.objective.type,
            "step": step,
            "weights": weights,
            "weights_digest": found,
        }
    )


def _called(run: str) -> str:
    """A run's recipe as far as its place tells: runs/NAME/RUN."""
    parts = Path(run).parts
    return parts[-2] if len(parts) > 2 and parts[-3] == "runs" else parts[-1]

"""The chain of a model's teachers, by name and digest of the weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fewstep.core.errors import FewstepError
from fewstep.recipe.models import Recipe, TeacherSection
from fewstep.runs.exported import Ancestor
from fewstep.runs.models import find_model
from fewstep.runtime.digest import digest


def ancestors(recipe: Recipe) -> tuple[Ancestor, ...]:
    """The recipe's teacher, the teacher of that teacher and so on; the chain ends at a missing run."""
    chain: list[Ancestor] = []
    section = recipe.teacher
    while section is not None:
        try:
            ancestor, origin = _read(section)
        except (FewstepError, KeyError):
            return (*chain, Ancestor(name=_recipe_name(section.run), weights=section.weights))
        chain.append(ancestor)
        if isinstance(origin, tuple):
            return (*chain, *origin)
        section = origin.teacher
    return tuple(chain)


def state_digest(state: dict[str, Tensor]) -> str:
    """Digest of weights, in the order of their names."""
    return digest(*(tensor for _, tensor in sorted(state.items())))


def _read(section: TeacherSection) -> tuple[Ancestor, Recipe | tuple[Ancestor, ...]]:
    """A teacher, and its recipe, or the recorded chain of its teachers if it is exported."""
    model = find_model(section.run, weights=section.weights)
    export = model.exported.config if model.exported else None
    ancestor = Ancestor(
        name=model.recipe.name,
        objective=model.recipe.objective.type,
        step=model.step,
        weights=model.weights,
        weights_digest=export.weights_digest if export else state_digest(model.state),
    )
    return ancestor, export.teachers if export else model.recipe


def _recipe_name(run: str) -> str:
    """Name of a missing run's recipe from its path, runs/NAME/RUN; the last part of any other path."""
    parts = Path(run).parts
    return parts[-2] if len(parts) > 2 and parts[-3] == "runs" else parts[-1]

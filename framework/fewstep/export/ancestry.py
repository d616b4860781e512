"""The chain of teachers that a model descends from, by name and by digest of their weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fewstep.core.errors import FewstepError
from fewstep.recipe.models import Recipe, TeacherSection
from fewstep.runs.exported import Ancestor
from fewstep.runs.models import find_model
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
    found = find_model(section.run, weights=section.weights)
    known = found.exported.config if found.exported else None
    ancestor = Ancestor(
        name=found.recipe.name,
        objective=found.recipe.objective.type,
        step=found.step,
        weights=found.weights,
        weights_digest=known.weights_digest if known else state_digest(found.state),
    )
    return ancestor, known.teachers if known else found.recipe


def _called(run: str) -> str:
    """A run's recipe as far as its place tells: runs/NAME/RUN."""
    parts = Path(run).parts
    return parts[-2] if len(parts) > 2 and parts[-3] == "runs" else parts[-1]

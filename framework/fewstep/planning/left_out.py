"""What a training has in memory and a plan does not count."""

from __future__ import annotations

from collections.abc import Iterator

from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe.models import Recipe


def left_out(recipe: Recipe) -> str:
    """A sentence on what a plan of the recipe leaves out."""
    return f"left out: {'; '.join(_parts(recipe))}"


def _parts(recipe: Recipe) -> Iterator[str]:
    watch = recipe.watch
    yield "data that are held in memory"
    yield "the copy of all weights and moments that a checkpoint takes, in the memory of the host"
    if "teacher" in OBJECTIVES.get(recipe.objective.type).cls.roles:
        if watch.times:
            yield f"the {watch.samples} samples that a look draws between two steps (watch.samples)"
        if watch.judged:
            yield f"samples that watch scores, {recipe.evaluate.batch_size} at once (evaluate.batch_size)"
    if recipe.train.compile != "off":
        yield "activations that compiled code need not keep (train.compile)"

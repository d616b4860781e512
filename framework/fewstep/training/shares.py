"""Whether ranks can share a training: checks before anything is built."""

from __future__ import annotations

from fewstep.core.errors import UserError
from fewstep.recipe.models import Recipe, TrainSection
from fewstep.runtime.ranks import Ranks


def check_shares(train: TrainSection, ranks: Ranks) -> None:
    """Check that every rank gets the same number of samples of a batch, in micro-batches of the same size.

    Raises:
        UserError: the batch cannot be divided so.
    """
    parts = train.accumulate * ranks.size
    if ranks.size > 1 and train.batch_size % parts:
        of = f"{ranks.size} ranks" + (f" with {train.accumulate} micro-batches each" if train.accumulate > 1 else "")
        raise UserError(
            f"train.batch_size: {train.batch_size} samples cannot be divided between {of}; "
            f"make it a multiple of {parts}"
        )


def check_objective(recipe: Recipe, ranks: Ranks) -> None:
    """Check that the objective can take the share of a rank, as it checks micro-batches.

    Raises:
        UserError: it cannot.
    """
    if ranks.size == 1:
        return
    check_shares(recipe.train, ranks)
    divided = recipe.train.model_copy(update={"accumulate": recipe.train.accumulate * ranks.size})
    for key, message in recipe.objective.check_recipe(recipe.model_copy(update={"train": divided})):
        raise UserError(f"objective{key and '.' + key}: with {ranks.size} ranks {message}")

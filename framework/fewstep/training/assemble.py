"""From a recipe to the parts of a training: `assemble`, and then `Trainer(parts, settings, run)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fewstep.data.base import Dataset
from fewstep.denoisers.base import Network
from fewstep.objectives.base import OBJECTIVES, Objective
from fewstep.processes.base import Process
from fewstep.recipe.models import Recipe
from fewstep.runs.build import build_process
from fewstep.runs.models import build_component, build_dataset
from fewstep.samplers.base import SAMPLERS, Sampler
from fewstep.supervision.base import SUPERVISIONS, Supervision
from fewstep.training.roles import build_roles


@dataclass(frozen=True)
class Parts:
    """Components of a training. They can be built without a recipe, or wrapped before the trainer gets them.

    Args:
        dataset: clean tokens.
        process: noising of the tokens; the process of every network.
        objective: the loss, and the roles that it trains.
        roles: the network of each of the objective's roles, by name, on any device.
        sampler: draws the samples that are logged during a distillation.
        supervision: draws the tokens that a step's losses count; None for all.
    """

    dataset: Dataset
    process: Process
    objective: Objective
    roles: Mapping[str, Network]
    sampler: Sampler = field(default_factory=lambda: SAMPLERS.build("ancestral"))
    supervision: Supervision | None = None


def assemble(recipe: Recipe, dataset: Dataset | None = None) -> Parts:
    """Build the parts of a recipe, with its teacher and the other models that it names.

    Args:
        dataset: the recipe's data, if they are in memory already.

    Raises:
        UserError: data cannot be read, or a model that the recipe names is missing or does not fit.
    """
    dataset = dataset or build_dataset(recipe)
    process = build_process(recipe, dataset)
    objective = build_component(OBJECTIVES, recipe.objective)
    roles = build_roles(recipe, objective.roles, dataset, process)
    supervision = None if recipe.supervision is None else build_component(SUPERVISIONS, recipe.supervision)
    return Parts(dataset, process, objective, roles, build_component(SAMPLERS, recipe.sampler), supervision)

"""From a recipe to live objects: process and networks."""

from __future__ import annotations

import torch

from fewstep.data.base import Dataset
from fewstep.denoisers.base import Blueprint, Network
from fewstep.objectives.base import OBJECTIVES, RoleSpec
from fewstep.processes.base import PROCESSES, Process
from fewstep.recipe.models import Recipe
from fewstep.runtime.seeding import derived_seed


def usual_steps(recipe: Recipe) -> int:
    """Number of sampling steps of the student's training, or else the largest number that its recipe evaluates."""
    usual = OBJECTIVES.build(recipe.objective).usual_steps()
    return usual or max(recipe.evaluate.steps)


def build_process(recipe: Recipe, dataset: Dataset) -> Process:
    """The recipe's process over the dataset's vocabulary."""
    return PROCESSES.build(recipe.process, vocab_size=dataset.spec.vocab_size)


def build_network(
    recipe: Recipe, dataset: Dataset, process: Process, role: RoleSpec, *, purpose: str = "student"
) -> Network:
    """A freshly initialised network for a role; `purpose` names the random stream of its initial weights."""
    blueprint = Blueprint(
        process,
        dataset,
        recipe.backbone,
        recipe.objective,
        recipe.noise_input if role.adapters else None,
        recipe.step_input if role.adapters or role.step_input else None,
        recipe.label_input,
        recipe.output or "x_mean",
    )
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(recipe.seed, f"init/{purpose}"))
        return role.network.build(blueprint)

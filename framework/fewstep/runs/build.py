"""From a recipe to live objects: process and networks."""

from __future__ import annotations

import torch

from fewstep.adapters.label import LabelInput
from fewstep.adapters.noise.base import NOISE_INPUTS
from fewstep.adapters.step import StepInput
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.data.base import Dataset
from fewstep.denoisers.autoencoder import NetworkAutoencoder
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES, RoleSpec
from fewstep.processes.base import PROCESSES, Process
from fewstep.recipe.models import Recipe
from fewstep.runtime.seeding import derived_seed


def usual_steps(recipe: Recipe) -> int:
    """Sampling steps that the student is made for, or the most that its recipe evaluates at."""
    usual = OBJECTIVES.build(recipe.objective).usual_steps()
    return usual or max(recipe.evaluate.steps)


def build_process(recipe: Recipe, dataset: Dataset) -> Process:
    """The recipe's process over the dataset's vocabulary."""
    return PROCESSES.build(recipe.process, vocab_size=dataset.spec.vocab_size)


def build_denoiser(
    recipe: Recipe, dataset: Dataset, process: Process, role: RoleSpec, *, purpose: str = "student"
) -> NetworkDenoiser:
    """A freshly initialised network for a role; `purpose` names the random stream of its initial weights. A label input
    goes into every network."""
    spec, adapters = dataset.spec, role.adapters
    tokens = TokenSpace(process.num_states, _scored(role, dataset), spec.length, spec.grid)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(recipe.seed, f"init/{purpose}"))
        backbone = BACKBONES.build(recipe.backbone, tokens=tokens)
        adapter = None
        if adapters and recipe.noise_input:
            adapter = NOISE_INPUTS.build(
                recipe.noise_input, tokens=tokens, width=backbone.width, sites=backbone.residual_sites
            )
        told = None
        if (adapters or role.step_input) and recipe.step_input:
            told = StepInput(recipe.step_input, backbone.width)
        labels = LabelInput(recipe.label_input, dataset.classes, backbone.width) if recipe.label_input else None
    kind = NetworkDenoiser if role.scores is None else NetworkClassifier
    if role.reconstructs:
        kind = NetworkAutoencoder
    return kind(backbone, process, adapter, told, labels)


def _scored(role: RoleSpec, dataset: Dataset) -> int:
    """How many symbols or classes a role's head scores."""
    if role.scores is None:
        return dataset.spec.vocab_size
    return dataset.classes if role.scores == "labels" else role.scores

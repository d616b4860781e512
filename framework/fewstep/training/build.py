"""From a recipe to live objects: dataset, process, denoisers; and from a run folder back to its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoiser import NetworkDenoiser
from fewstep.errors import UserError
from fewstep.label_input import LabelInput
from fewstep.noise_inputs.base import NOISE_INPUTS
from fewstep.objectives.base import OBJECTIVES
from fewstep.processes.base import PROCESSES, ForwardProcess
from fewstep.recipe import load_run_recipe
from fewstep.recipe.models import Recipe
from fewstep.seeding import derived_seed
from fewstep.step_input import StepInput
from fewstep.training.checkpoint import load_checkpoint
from fewstep.training.rundir import RunDir

Weights = Literal["ema", "raw"]


def resolve_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one.

    Raises:
        UserError: "cuda" was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device: cuda was asked for, but torch finds no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def usual_steps(recipe: Recipe) -> int:
    """Sampling steps that the student is made for, or the most that its recipe evaluates at."""
    usual = OBJECTIVES.get(recipe.objective.type).cls.usual_steps(recipe.objective)
    return usual or max(recipe.evaluate.steps)


def build_dataset(recipe: Recipe) -> Dataset:
    """The recipe's data, read and tokenised."""
    return DATASETS.build(recipe.data)


def build_process(recipe: Recipe, dataset: Dataset) -> ForwardProcess:
    """The recipe's process over the dataset's vocabulary."""
    return PROCESSES.build(recipe.process, vocab_size=dataset.spec.vocab_size)


def build_denoiser(
    recipe: Recipe, dataset: Dataset, process: ForwardProcess, *, adapters: bool, purpose: str = "student"
) -> NetworkDenoiser:
    """A freshly initialised network; `purpose` names the random stream of its initial weights, `adapters`
    says whether the recipe's noise and step inputs go into it. A label input goes into every network."""
    spec = dataset.spec
    tokens = TokenSpace(process.num_states, spec.vocab_size, spec.length, spec.grid)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(recipe.seed, f"init/{purpose}"))
        backbone = BACKBONES.build(recipe.backbone, tokens=tokens)
        adapter = None
        if adapters and recipe.noise_input:
            adapter = NOISE_INPUTS.build(
                recipe.noise_input, tokens=tokens, width=backbone.width, sites=backbone.residual_sites
            )
        told = StepInput(recipe.step_input, backbone.width) if adapters and recipe.step_input else None
        labels = LabelInput(recipe.label_input, dataset.classes, backbone.width) if recipe.label_input else None
    return NetworkDenoiser(backbone, process, adapter, told, labels)


@dataclass(frozen=True)
class TrainedModel:
    """A trained student and what belongs to it."""

    run: RunDir
    recipe: Recipe
    dataset: Dataset
    denoiser: NetworkDenoiser
    step: int


def load_model(
    path: str | Path, *, weights: Weights = "ema", device: str = "auto", dataset: Dataset | None = None
) -> TrainedModel:
    """The student of a run, from its newest checkpoint, ready to sample.

    Args:
        dataset: the run's data if it is in memory already.

    Raises:
        UserError: no such run, or a run without a checkpoint.
    """
    run = RunDir.open(path)
    recipe = load_run_recipe(run.resolved)
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise UserError(f"run '{run.path}' has no checkpoint yet (status: {run.status['state']})")
    dataset = dataset or build_dataset(recipe)
    role = OBJECTIVES.get(recipe.objective.type).cls.roles["student"]
    denoiser = build_denoiser(recipe, dataset, build_process(recipe, dataset), adapters=role.adapters)
    part = "ema/weights" if weights == "ema" else "roles/student"
    denoiser.load_state_dict(load_checkpoint(checkpoint, part), strict=weights == "raw")
    denoiser.requires_grad_(False).eval().to(resolve_device(device))
    return TrainedModel(run, recipe, dataset, denoiser, int(checkpoint.name.removeprefix("step-")))


def load_teacher(recipe: Recipe, dataset: Dataset) -> NetworkDenoiser:
    """The teacher that `recipe.teacher` names, checked to fit the recipe.

    Raises:
        UserError: it was trained on other data or labels, or with another process or backbone.
    """
    assert recipe.teacher is not None
    teacher = load_model(recipe.teacher.run, weights=recipe.teacher.weights, device="cpu")
    ours, theirs = dataset.spec, teacher.dataset.spec
    if (ours.vocab_size, ours.length) != (theirs.vocab_size, theirs.length):
        raise UserError(
            f"data: teacher '{teacher.run.path}' knows {theirs.vocab_size} symbols in samples of "
            f"{theirs.length} tokens, this recipe's data have {ours.vocab_size} in {ours.length}; "
            "use the teacher's data section"
        )
    if teacher.dataset.fingerprint != dataset.fingerprint:
        raise UserError(f"data: teacher '{teacher.run.path}' was trained on other data; use its data section")
    for section in ("process", "backbone"):
        _check_section(section, getattr(recipe, section).model_dump(), teacher)
    _check_labels(recipe, dataset, teacher)
    return teacher.denoiser


def _check_section(section: str, ours: dict[str, Any], teacher: TrainedModel) -> None:
    theirs = getattr(teacher.recipe, section).model_dump()
    keys = (ours.keys() | theirs.keys()) - {"attention", "dropout"}
    for key in sorted(key for key in keys if ours.get(key) != theirs.get(key)):
        raise UserError(
            f"{section}.{key}: teacher '{teacher.run.path}' has {theirs.get(key)!r}, this recipe {ours.get(key)!r}; "
            f"a student starts from its teacher's weights, so their {section} must agree"
        )


def _check_labels(recipe: Recipe, dataset: Dataset, teacher: TrainedModel) -> None:
    ours, theirs = recipe.label_input is not None, teacher.recipe.label_input is not None
    if ours != theirs:
        yes, no = ("this recipe is", "the teacher is not") if ours else ("the teacher is", "this recipe is not")
        raise UserError(
            f"label_input: teacher '{teacher.run.path}': {yes} told labels, {no}; a student starts from its teacher's "
            "weights, so both have this section or neither"
        )
    if ours and not _same(dataset.labels, teacher.dataset.labels):
        raise UserError(f"data: teacher '{teacher.run.path}' was trained with other labels; use its data section")


def _same(ours: Tensor | None, theirs: Tensor | None) -> bool:
    return ours is not None and theirs is not None and torch.equal(ours, theirs)

"""From a recipe to live objects: dataset, process, denoisers; and from a run folder back to its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.classifier import NetworkClassifier
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoiser import NetworkDenoiser
from fewstep.errors import UserError
from fewstep.label_input import LabelInput
from fewstep.noise_inputs.base import NOISE_INPUTS
from fewstep.objectives.base import OBJECTIVES, RoleSpec
from fewstep.processes.base import PROCESSES, ForwardProcess
from fewstep.recipe import load_run_recipe, parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.seeding import derived_seed
from fewstep.step_input import StepInput
from fewstep.training.checkpoint import import_weights, load_checkpoint
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
    recipe: Recipe, dataset: Dataset, process: ForwardProcess, role: RoleSpec, *, purpose: str = "student"
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
        if (adapters or role.told_step) and recipe.step_input:
            told = StepInput(recipe.step_input, backbone.width)
        labels = LabelInput(recipe.label_input, dataset.classes, backbone.width) if recipe.label_input else None
    kind = NetworkDenoiser if role.scores is None else NetworkClassifier
    return kind(backbone, process, adapter, told, labels)


def _scored(role: RoleSpec, dataset: Dataset) -> int:
    """How many symbols or classes a role's head scores."""
    if role.scores is None:
        return dataset.spec.vocab_size
    return dataset.classes if role.scores == "labels" else role.scores


@dataclass(frozen=True)
class TrainedModel:
    """A trained student and what belongs to it."""

    path: Path
    """The run's folder, or the exported file."""
    run: RunDir
    """Where what is made of it goes: its run, or for an exported file the folder of the same name beside it."""
    recipe: Recipe
    dataset: Dataset
    denoiser: NetworkDenoiser
    step: int


def load_model(
    path: str | Path, *, weights: Weights = "ema", device: str = "auto", dataset: Dataset | None = None
) -> TrainedModel:
    """The student of a run, from its newest checkpoint, ready to sample; or that of an exported file.

    Args:
        path: run folder, or a `.safetensors` file that fewstep exported.
        dataset: the run's data if it is in memory already.

    Raises:
        UserError: no such run or file, a run without a checkpoint, or a file without the weights asked for.
    """
    path = Path(path)
    run, recipe, step, state = (_from_file if path.suffix == ".safetensors" else _from_run)(path, weights)
    dataset = dataset or build_dataset(recipe)
    role = OBJECTIVES.get(recipe.objective.type).cls.roles["student"]
    denoiser = build_denoiser(recipe, dataset, build_process(recipe, dataset), role)
    missing = {name for name, _ in denoiser.named_parameters()} - state.keys()
    if missing:
        raise UserError(f"the weights in '{path}' do not fit their recipe: {min(missing)} is missing")
    denoiser.load_state_dict(state, strict=weights == "raw")  # an average has no buffers
    denoiser.requires_grad_(False).eval().to(resolve_device(device))
    return TrainedModel(path if path.suffix == ".safetensors" else run.path, run, recipe, dataset, denoiser, step)


def load_role(path: str | Path, name: str) -> TrainedModel:
    """Another network of a run than the student, with its weights as they are, from the newest checkpoint.

    Raises:
        UserError: no such run or role, an exported file, or a role with another backbone than the student's.
    """
    if Path(path).suffix == ".safetensors":
        raise UserError(f"'{path}' holds the student alone; name the run folder that it came from, for its {name}")
    run, checkpoint, step = _newest(path)
    recipe = load_run_recipe(run.resolved)
    roles = OBJECTIVES.get(recipe.objective.type).cls.roles
    if name not in roles:
        has = f"objective '{recipe.objective.type}' has {', '.join(roles)}"
        raise UserError(f"run '{run.path}' has no {name}: {has}")
    dataset = build_dataset(recipe)
    network = build_denoiser(recipe, dataset, build_process(recipe, dataset), roles[name])
    try:
        network.load_state_dict(load_checkpoint(checkpoint, f"roles/{name}"))
    except RuntimeError:
        raise UserError(f"the {name} of run '{run.path}' has another backbone than its student") from None
    return TrainedModel(run.path, run, recipe, dataset, network.requires_grad_(False).eval(), step)


def _from_run(path: Path, weights: Weights) -> tuple[RunDir, Recipe, int, dict[str, Any]]:
    run, checkpoint, step = _newest(path)
    state = load_checkpoint(checkpoint, "ema/weights" if weights == "ema" else "roles/student")
    return run, load_run_recipe(run.resolved), step, state


def _newest(path: str | Path) -> tuple[RunDir, Path, int]:
    """A run, its newest checkpoint, and the step of that.

    Raises:
        UserError: no such run, or one without a checkpoint.
    """
    run = RunDir.open(path)
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        raise UserError(f"run '{run.path}' has no checkpoint yet (status: {run.status['state']})")
    return run, checkpoint, int(checkpoint.name.removeprefix("step-"))


def _from_file(path: Path, weights: Weights) -> tuple[RunDir, Recipe, int, dict[str, Any]]:
    if weights == "raw":
        raise UserError(f"'{path}' holds averaged weights only; ask for `ema`, or name the run that it came from")
    state, metadata = import_weights(path)
    recipe = parse_recipe(metadata["recipe"], source=str(path))
    return RunDir(path.with_suffix("")), recipe, int(metadata["step"]), state

"""From a run folder, an exported folder or a file back to a network with its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from fewstep.core.component import Component
from fewstep.core.errors import FewstepError, UnfitModelError, UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import references
from fewstep.core.registry import Raw, Registry
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import load_run_recipe, parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runs.build import build_denoiser, build_process
from fewstep.runs.checkpoint import import_weights, load_checkpoint
from fewstep.runs.exported import Exported, is_exported
from fewstep.runs.folder import RunDir
from fewstep.runtime.device import resolve_device

Weights = Literal["ema", "raw"]
C = TypeVar("C", bound=Component)


def build_component(registry: Registry[C], config: Raw, **runtime: Any) -> C:
    """A component that can open the models that its settings name.

    Args:
        config: name, mapping or settings.
        runtime: further arguments of its constructor.
    """
    return registry.build(config, opener=open_reference, **runtime)


def build_dataset(recipe: Recipe) -> Dataset:
    """The recipe's data, read and tokenised."""
    return build_component(DATASETS, recipe.data)


def open_reference(
    config: BaseModel, key: str, *, dataset: Dataset | None = None, refuses: Callable[[RecipeView], str | None] | None
) -> TrainedModel:
    """The model that a setting names; see `Component.open_model`."""
    named = next(found for found in references(config) if found.key == key)
    source = _found(named.value, named.weights)
    if reason := refuses and refuses(source.recipe):
        raise UserError(f"'{named.value}' {reason}")
    if dataset is None:
        return source.build(None, "cpu")
    try:
        return source.build(dataset, "cpu")
    except UserError as error:
        raise UnfitModelError(str(error)) from None


@dataclass(frozen=True)
class TrainedModel:
    """A trained student and what belongs to it."""

    path: Path
    """The run's folder, or the exported folder or file."""
    run: RunDir
    """Where what is made of it goes: its run, or a folder beside an exported file (of its name) or folder
    (NAME-made)."""
    recipe: Recipe
    dataset: Dataset
    network: NetworkDenoiser
    step: int
    weights: Weights = "ema"

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The network, if it predicts tokens."""
        return self.network

    @property
    def made(self) -> Path:
        """The folder of what is made of the model."""
        return self.run.path


def _last_line(error: Exception) -> str:
    return str(error).splitlines()[-1].strip().rstrip(".")


@dataclass(frozen=True)
class _Source:
    """What a model is made of, wherever it was found; `dataset` if that came with it, `role` its place."""

    path: Path
    run: RunDir
    recipe: Recipe
    step: int
    state: dict[str, Any]
    weights: Weights
    dataset: Dataset | None = None
    role: str = "student"

    def build(self, dataset: Dataset | None, device: str) -> TrainedModel:
        """The network with its weights, ready to sample."""
        dataset = self.dataset if dataset is None else dataset
        dataset = build_dataset(self.recipe) if dataset is None else dataset
        role = OBJECTIVES.get(self.recipe.objective.type).cls.roles[self.role]
        denoiser = build_denoiser(self.recipe, dataset, build_process(self.recipe, dataset), role)
        if missing := {name for name, _ in denoiser.named_parameters()} - self.state.keys():
            raise UnfitModelError(f"the weights in '{self.path}' do not fit their recipe: {min(missing)} is missing")
        try:
            denoiser.load_state_dict(self.state, strict=self.weights == "raw")  # an average has no buffers
        except RuntimeError as error:
            raise UnfitModelError(
                f"the weights in '{self.path}' do not fit their recipe ({_last_line(error)})"
            ) from None
        if device == "auto" and self.recipe.train.device == "cpu":
            device = "cpu"
        denoiser.requires_grad_(False).eval().to(resolve_device(device))
        return TrainedModel(self.path, self.run, self.recipe, dataset, denoiser, self.step, self.weights)


def load_model(
    path: str | Path, *, weights: Weights = "ema", device: str = "auto", dataset: Dataset | None = None
) -> TrainedModel:
    """The student of a run, from its newest checkpoint, ready to sample; or that of an exported folder or file.

    Args:
        path: run folder, a folder that `fewstep export` wrote, or a `.safetensors` file of a run's export/.
        device: "auto" is a GPU where there is one, unless the recipe trains on the CPU.
        dataset: the run's data if it is in memory already.

    Raises:
        UserError: no such run or file, a run without a checkpoint, or a file without the weights asked for.
    """
    return _found(path, weights).build(dataset, device)


def _found(path: str | Path, weights: Weights) -> _Source:
    path = Path(path)
    if is_exported(path):
        return _from_folder(path, weights, "student")
    return (_from_file if path.suffix == ".safetensors" else _from_run)(path, weights)


def load_role(path: str | Path, name: str) -> TrainedModel:
    """Another network of a run than the student, with its weights as they are, from the newest checkpoint; or one that
    was exported.

    Raises:
        UserError: no such run or role, an exported file, or a role with another backbone than the student's.
    """
    if is_exported(path):
        return _from_folder(Path(path), "raw", name).build(None, "cpu")
    if Path(path).suffix == ".safetensors":
        raise UserError(f"'{path}' holds the student alone; name the run folder that it came from, for its {name}")
    run, checkpoint, step = _newest(path)
    recipe = load_run_recipe(run.resolved)
    roles = OBJECTIVES.get(recipe.objective.type).cls.roles
    if name not in roles:
        has = f"objective '{recipe.objective.type}' has {', '.join(roles)}"
        raise UserError(f"run '{run.path}' has no {name}: {has}")
    state = load_checkpoint(checkpoint, f"roles/{name}")
    try:
        return _Source(run.path, run, recipe, step, state, "raw", role=name).build(None, "cpu")
    except UnfitModelError:
        raise UserError(f"the {name} of run '{run.path}' has another backbone than its student") from None


def with_data(model: TrainedModel) -> Dataset:
    """The model's dataset with its training data: those of its recipe, if it was exported without.

    Raises:
        UserError: they are not here, or are others.
    """
    if model.dataset.has_data:
        return model.dataset
    told = f"'{model.path}' came without its training data, which this compares with"
    try:
        dataset = build_dataset(model.recipe)
    except FewstepError as error:
        raise UserError(f"{told}, and they are not here ({error}); use the run that it was exported from") from None
    if dataset.fingerprint != model.dataset.fingerprint:
        raise UserError(f"{told}, and those that its recipe finds here are others; use the run that it came from")
    return dataset


def _from_run(path: Path, weights: Weights) -> _Source:
    run, checkpoint, step = _newest(path)
    state = load_checkpoint(checkpoint, "ema/weights" if weights == "ema" else "roles/student")
    return _Source(run.path, run, load_run_recipe(run.resolved), step, state, weights)


def _from_folder(path: Path, weights: Weights, role: str) -> _Source:
    exported = Exported(path)
    told = exported.config
    if told.role != role:
        raise UserError(f"'{path}' holds the {told.role} of '{told.name}', and not a {role}")
    if weights == "raw" and told.weights != "raw":
        raise UserError(f"'{path}' holds averaged weights only; export the run with `--weights raw`")
    recipe, run = exported.recipe(), RunDir(path.with_name(f"{path.absolute().name}-made"))
    state, dataset = exported.contents[0], exported.dataset(recipe)
    return _Source(path, run, recipe, told.step, state, told.weights, dataset, role)


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


def _from_file(path: Path, weights: Weights) -> _Source:
    if weights == "raw":
        raise UserError(f"'{path}' holds averaged weights only; ask for `ema`, or name the run that it came from")
    state, metadata = import_weights(path)
    recipe = parse_recipe(metadata["recipe"], source=str(path))
    return _Source(path, RunDir(path.with_suffix("")), recipe, int(metadata["step"]), state, weights)

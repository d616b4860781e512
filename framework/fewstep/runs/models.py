"""Networks with their weights from a run folder, an exported folder or an exported file."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from fewstep.core.component import Component
from fewstep.core.errors import FewstepError, UnfitModelError, UserError
from fewstep.core.plugins import trusting_plugins
from fewstep.core.references import Refuses, references
from fewstep.core.registry import Raw, Registry
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoisers.base import Denoiser, Network
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import load_run_recipe, parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runs.build import build_network, build_process
from fewstep.runs.checkpoint import DamagedCheckpoint, import_weights, list_checkpoints, load_checkpoint, step_of
from fewstep.runs.environment import plugin_versions, run_data_fingerprint, run_plugin_versions
from fewstep.runs.exported import Exported, is_exported
from fewstep.runs.folder import RUNS, RunDir
from fewstep.runs.shipped import OWNER, is_shipped, model_path
from fewstep.runtime.bounded import TooLargeError, build_bounded, largest_tensor
from fewstep.runtime.device import resolve_device
from fewstep.runtime.digest import digest, weights_digest

Weights = Literal["ema", "raw"]
C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with its recipe, data and folder."""

    path: Path
    """The run's folder, or the exported folder or file."""
    run: RunDir
    """Folder for files derived from it: its run, or a folder beside an exported file (of its name) or folder
    (NAME-made); below `runs/` for a shipped model."""
    recipe: Recipe
    dataset: Dataset
    network: Network
    step: int
    weights: Weights = "ema"
    role: str = "student"

    @property
    def denoiser(self) -> Denoiser:
        """The network, checked to be one that samplers can draw from.

        Raises:
            UserError: the network draws no samples.
        """
        if not isinstance(self.network, Denoiser):
            raise UserError(self.network.refusal)
        return self.network

    @property
    def derived(self) -> Path:
        """Folder for files derived from the model."""
        return self.run.path

    @cached_property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of the network's weights."""
        return weights_digest(self.network)


def open_model(
    path: str | Path,
    role: str = "student",
    weights: Weights = "ema",
    *,
    device: str = "auto",
    dataset: Dataset | None = None,
    trust_plugins: bool = False,
) -> TrainedModel:
    """Network of a run's newest checkpoint, or of an exported folder or file, ready to use.

    Args:
        path: run folder, a folder that `fewstep export` wrote, a `.safetensors` file of a run's export/, or the name
            of a shipped model.
        role: role of the network in the run's objective.
        weights: "ema" for the student's averaged weights, "raw" for the last ones; other roles have only the latter.
        device: "auto" is a GPU if there is one, unless the recipe trains on the CPU.
        dataset: data that are in memory already; the network is built for them.
        trust_plugins: run the plugin files and modules that the model's recipe lists. Their code can do whatever you
            can. Within `fewstep.core.plugins.trusting_plugins` those of models that its sampler names run too.

    Raises:
        UserError: no such run, file or role, a run without a checkpoint, a file without these weights, or a recipe that
            lists code which is not trusted.
        UnfitModelError: the weights do not fit the recipe or `dataset`.
    """
    with trusting_plugins(trust_plugins):
        return find_model(path, role, weights).build(dataset, device)


def build_component(registry: Registry[C], config: Raw, **runtime: Any) -> C:
    """A component that opens the models that its settings name by `open_reference`.

    Args:
        config: name, mapping or settings.
        runtime: further arguments of its constructor.
    """
    return registry.build(config, opener=open_reference, **runtime)


def build_dataset(recipe: Recipe) -> Dataset:
    """The recipe's data, read and tokenised."""
    return build_component(DATASETS, recipe.data)


def open_reference(
    config: BaseModel, key: str, *, device: str, dataset: Dataset | None, refuses: Refuses
) -> TrainedModel:
    """The model that a setting names; see `Component.open_model`."""
    named = next(reference for reference in references(config) if reference.key == key)
    source = find_model(named.value, named.role, named.weights)
    if reason := refuses and refuses(source.recipe):
        raise UserError(f"'{named.value}' {reason}")
    try:
        return source.build(dataset, device)
    except UserError as error:
        if dataset is None:
            raise
        raise UnfitModelError(str(error)) from None


@dataclass(frozen=True)
class ModelSource:
    """Inputs of a `TrainedModel`, from any place: recipe, weights by name, and the exported folder if it is one."""

    path: Path
    run: RunDir
    recipe: Recipe
    step: int
    state: dict[str, Tensor]
    weights: Weights
    role: str = "student"
    exported: Exported | None = None

    def build(self, dataset: Dataset | None, device: str, setting: str = "train.device") -> TrainedModel:
        """The network with its weights, frozen and in eval mode; see `open_model`, and `device` for `setting`."""
        place = self.device(device, setting)
        if dataset is None:
            dataset = self.exported.dataset(self.recipe) if self.exported else build_dataset(self.recipe)
        role = OBJECTIVES.get(self.recipe.objective.type).cls.roles[self.role]
        process = build_process(self.recipe, dataset)
        largest = largest_tensor(self.recipe.backbone.model_dump(), dataset.spec.vocab_size, dataset.spec.length)
        try:
            network = build_bounded(
                lambda: build_network(self.recipe, dataset, process, role), self.state.values(), largest
            )
        except TooLargeError:
            raise UnfitModelError(f"the recipe in '{self.path}' describes a larger network than its weights") from None
        self._load_into(network)
        network.requires_grad_(False).eval().to(place)
        return TrainedModel(self.path, self.run, self.recipe, dataset, network, self.step, self.weights, self.role)

    def device(self, name: str, setting: str = "train.device") -> torch.device:
        """Device of a name; "auto" is a GPU if there is one, unless the recipe trains on the CPU.

        Raises:
            UserError: the name is "cuda" and there is no GPU.
        """
        return resolve_device("cpu" if name == "auto" and self.recipe.train.device == "cpu" else name, setting)

    @cached_property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of the weights, identical for a run and its exports in float32."""
        return digest(*(tensor for _, tensor in sorted(self.state.items())))

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the data, as far as the run or the export says it; else an empty text."""
        return self.exported.config.data.fingerprint if self.exported else run_data_fingerprint(self.run.environment)

    def training_data(self) -> Dataset:
        """The model's dataset with its training data; see `with_data`."""
        if self.exported is None:
            return build_dataset(self.recipe)
        return _own_data(self.path, self.recipe, self.exported.config.data.fingerprint)

    def _load_into(self, network: nn.Module) -> None:
        unfit = f"the weights in '{self.path}' do not fit their recipe"
        if self.role != "student":
            unfit = f"the {self.role} of run '{self.path}' has another backbone than its student"
        if missing := {name for name, _ in network.named_parameters()} - self.state.keys():
            raise UnfitModelError(f"{unfit}: {min(missing)} is missing")
        try:
            network.load_state_dict(self.state, strict=self.weights == "raw")  # an average has no buffers
        except RuntimeError as error:
            raise UnfitModelError(f"{unfit} ({str(error).splitlines()[-1].strip().rstrip('.')})") from None


def find_model(path: str | Path, role: str = "student", weights: Weights = "ema") -> ModelSource:
    """The source of `open_model`, read but not built."""
    path = model_path(path)
    if is_exported(path):
        return _from_folder(path, role, weights)
    return (_from_file if path.suffix == ".safetensors" else _from_run)(path, role, weights)


def with_data(model: TrainedModel) -> Dataset:
    """The model's dataset with its training data, which an exported model reads by its recipe.

    Raises:
        UserError: the data are missing, or differ from those of the training.
    """
    if model.dataset.has_data:
        return model.dataset
    return _own_data(model.path, model.recipe, model.dataset.fingerprint)


def _own_data(path: Path, recipe: Recipe, fingerprint: str) -> Dataset:
    """Training data of an exported model, by its recipe; see `with_data`."""
    problem = f"'{path}' came without its training data, which this compares with"
    try:
        dataset = build_dataset(recipe)
    except FewstepError as error:
        raise UserError(f"{problem}, and they are not here ({error}); use the run that it was exported from") from None
    if dataset.fingerprint != fingerprint:
        raise UserError(f"{problem}, and those that its recipe finds here are others; use the run that it came from")
    return dataset


def _from_run(path: Path, role: str, weights: Weights) -> ModelSource:
    run = RunDir.open(path)
    recipe = load_run_recipe(run.resolved, versions=run_plugin_versions(run.environment))
    roles = OBJECTIVES.get(recipe.objective.type).cls.roles
    if role not in roles:
        available = f"objective '{recipe.objective.type}' has {', '.join(roles)}"
        raise UserError(f"run '{run.path}' has no {role}: {available}")
    weights = weights if role == "student" else "raw"
    checkpoint, state = _newest_whole(run, "ema/weights" if weights == "ema" else f"roles/{role}")
    return ModelSource(run.path, run, recipe, step_of(checkpoint), state, weights, role)


def _newest_whole(run: RunDir, only: str) -> tuple[Path, dict[str, Tensor]]:
    """The newest checkpoint that is not damaged, and the part of it below `only`.

    Nothing is renamed, since the run may be another person's, or in training.

    Raises:
        UserError: the run has no checkpoint.
        DamagedCheckpoint: all of them are damaged.
    """
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        raise UserError(f"run '{run.path}' has no checkpoint yet (status: {run.status['state']})")
    for index, checkpoint in reversed(list(enumerate(checkpoints))):
        try:
            return checkpoint, load_checkpoint(checkpoint, only)
        except DamagedCheckpoint as error:
            if index == 0:
                raise DamagedCheckpoint(f"{error}; there is none before it") from None
            print(f"warning: {error}; the one before it is used", file=sys.stderr, flush=True)
    raise AssertionError("unreachable")


def _from_folder(path: Path, role: str, weights: Weights) -> ModelSource:
    exported = Exported(path)
    config = exported.config
    if config.role != role:
        raise UserError(f"'{path}' holds the {config.role} of '{config.name}', and not a {role}")
    if weights == "raw" and config.weights != "raw":
        raise UserError(f"'{path}' holds averaged weights only; export the run with `--weights raw`")
    made = RUNS / f"{OWNER}--{path.name}" if is_shipped(path) else path.with_name(f"{path.absolute().name}-made")
    state = exported.contents[0]
    return ModelSource(path, RunDir(made), exported.recipe(), config.step, state, config.weights, role, exported)


def _from_file(path: Path, role: str, weights: Weights) -> ModelSource:
    if role != "student":
        raise UserError(f"'{path}' holds the student alone; name the run folder that it came from, for its {role}")
    if weights == "raw":
        raise UserError(f"'{path}' holds averaged weights only; ask for `ema`, or name the run that it came from")
    state, metadata = import_weights(path)
    if "recipe" not in metadata or not re.fullmatch(r"\d{1,18}", metadata.get("step", "")):
        raise UserError(f"'{path}' is damaged: its metadata hold no recipe or no step; export it again")
    recipe = parse_recipe(metadata["recipe"], source=str(path), versions=plugin_versions(metadata.get("plugins")))
    return ModelSource(path, RunDir(path.with_suffix("")), recipe, int(metadata["step"]), state, weights)

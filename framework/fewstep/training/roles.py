"""Networks of a training, one for each role: new ones, or with the weights of the teacher or of another run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser, Network
from fewstep.denoisers.half import halve
from fewstep.denoisers.latents import LatentAverage
from fewstep.objectives.base import RoleSpec
from fewstep.processes.base import Process
from fewstep.recipe.models import Recipe
from fewstep.runs.build import build_network
from fewstep.runs.models import TrainedModel, open_model

_FREE = {"activation_checkpointing", "attention", "dropout"}
"""Settings of a backbone that may differ for the same weights."""


def build_roles(
    recipe: Recipe, roles: Mapping[str, RoleSpec], dataset: Dataset, process: Process
) -> dict[str, Network]:
    """Every role's network.

    The student has the recipe's backbone; any other role that starts from a trained network has that network's.

    Raises:
        UserError: no such run, or one that was trained on other data or labels, or with another process or backbone.
    """
    teacher = None
    built: dict[str, Network] = {}
    if "teacher" in roles:
        assert recipe.teacher is not None
        model = open_model(recipe.teacher.run, weights=recipe.teacher.weights, device="cpu")
        teacher = _Origin(model, f"teacher '{model.path}'")
        teacher.check(recipe, dataset)
        if not isinstance(model.network, roles["teacher"].network):
            raise UserError(f"teacher.run: '{model.path}' cannot teach this: {model.network.refusal}")
        built["teacher"] = _teacher_network(model, roles["teacher"], recipe)
    for name, role in roles.items():
        if name == "teacher":
            continue
        origin = _named_origin(name, recipe, dataset) or (teacher if role.starts_from == "teacher" else None)
        role_recipe = recipe.model_copy(update={"backbone": origin.backbone(name, recipe)}) if origin else recipe
        built[name] = build_network(role_recipe, dataset, process, role, purpose=name)
        if origin:
            origin.check_output(name, built[name], recipe)
            built[name].start_from(origin.model.network)
        elif role.starts_from:
            built[name].start_from(built[role.starts_from])
    if recipe.teacher is not None and recipe.teacher.dtype == "bfloat16":
        halve(built["teacher"])  # after all that starts from it
    return built


def _teacher_network(model: TrainedModel, role: RoleSpec, recipe: Recipe) -> Network:
    """The teacher as the objective reads it: a network with a noise input as the mean over its latents.

    Raises:
        UserError: the objective can read no teacher with a noise input.
    """
    network = model.network
    if not isinstance(network, Denoiser) or not network.has_latent or role.latents == "draw":
        return network
    if role.latents == "refuse":
        raise UserError(
            f"teacher.run: '{model.path}' has a noise input, so one prediction of it is a random component of a "
            f"mixture, which objective '{recipe.objective.type}' would take for the whole; name a teacher without one"
        )
    assert recipe.teacher is not None
    return LatentAverage(network, recipe.teacher.latents)


def _named_origin(role: str, recipe: Recipe, dataset: Dataset) -> _Origin | None:
    """The run that a role starts from by the recipe's `start_from`, if any."""
    run = recipe.start_from.get(role)
    if run is None:
        return None
    model = open_model(run, device="cpu")
    origin = _Origin(model, f"the run '{model.path}' of start_from.{role}")
    origin.check(recipe, dataset)
    return origin


class _Origin:
    """A trained network whose weights a role starts from; `label` names it in messages."""

    def __init__(self, model: TrainedModel, label: str) -> None:
        self.model, self.label = model, label

    def check(self, recipe: Recipe, dataset: Dataset) -> None:
        """Check that data, labels and process are those of the recipe.

        Raises:
            UserError: one of them differs.
        """
        ours, theirs = dataset.spec, self.model.dataset.spec
        if (ours.vocab_size, ours.length) != (theirs.vocab_size, theirs.length):
            raise UserError(
                f"data: {self.label} knows {theirs.vocab_size} symbols in samples of {theirs.length} tokens, this "
                f"recipe's data have {ours.vocab_size} in {ours.length}; use its data section"
            )
        if self.model.dataset.fingerprint != dataset.fingerprint:
            raise UserError(f"data: {self.label} was trained on other data; use its data section")
        for key, theirs_, ours_ in _differing(self.model.recipe.process, recipe.process):
            raise UserError(f"process.{key}: {self.label} has {theirs_!r}, this recipe {ours_!r}; they must agree")
        self._check_labels(recipe, dataset)

    def backbone(self, role: str, recipe: Recipe) -> ComponentConfig:
        """Backbone of a role with these weights: the recipe's if it fits (a student's must), or else the model's."""
        differing = _differing(self.model.recipe.backbone, recipe.backbone)
        if differing and role == "student":
            key, theirs, ours = differing[0]
            raise UserError(
                f"backbone.{key}: {self.label} has {theirs!r}, this recipe {ours!r}; a student that starts from these "
                "weights needs the same backbone; one with a backbone of its own starts from a run that has it "
                "(`start_from: {student: RUN}`)"
            )
        return self.model.recipe.backbone if differing else recipe.backbone

    def check_output(self, role: str, network: Network, recipe: Recipe) -> None:
        """Check that the rows of a role's head mean what they mean in the network that its weights come from.

        Raises:
            UserError: they do not; with masks both meanings are one.
        """
        ours, theirs = (getattr(network, "output", None) for network in (network, self.model.network))
        if None in (ours, theirs) or ours == theirs or network.process.carry_over:
            return
        raise UserError(
            f"output: {self.label} predicts {theirs}, this recipe {ours}, and role '{role}' starts from its weights; "
            f"set `output: {theirs}`"
        )

    def _check_labels(self, recipe: Recipe, dataset: Dataset) -> None:
        ours, theirs = recipe.label_input is not None, self.model.recipe.label_input is not None
        if ours != theirs:
            yes, no = ("this recipe is", "it is not") if ours else ("it is", "this recipe is not")
            raise UserError(
                f"label_input: {self.label}: {yes} conditioned on labels, {no}; they share weights, so both have this "
                "section or neither"
            )
        if ours and not _same(dataset.labels, self.model.dataset.labels):
            raise UserError(f"data: {self.label} was trained with other labels; use its data section")


def _differing(theirs: ComponentConfig, ours: ComponentConfig) -> list[tuple[str, object, object]]:
    """Keys with different values, and both values; keys that may differ for the same weights are left out."""
    a, b = theirs.model_dump(), ours.model_dump()
    return [(key, a.get(key), b.get(key)) for key in sorted((a.keys() | b.keys()) - _FREE) if a.get(key) != b.get(key)]


def _same(ours: Tensor | None, theirs: Tensor | None) -> bool:
    return ours is not None and theirs is not None and torch.equal(ours, theirs)

"""Trained models that the roles of a training start from, and whether they fit its recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import FewstepError, UserError
from fewstep.core.references import Reference, replace_references
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Network
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe.models import Recipe
from fewstep.runs.models import TrainedModel, find_model
from fewstep.runs.shipped import model_path
from fewstep.runtime.hashing import sha256

_FREE = {"activation_checkpointing", "attention", "dropout"}
"""Settings of a backbone that may differ for the same weights."""


class Origin:
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
        for key, reason in _misfits(self.model.recipe, recipe, self.label):
            raise UserError(f"{key}: {reason}")
        if recipe.label_input is not None and not _same(dataset.labels, self.model.dataset.labels):
            raise UserError(f"data: {self.label} was trained with other labels; use its data section")

    def backbone(self, role: str, recipe: Recipe) -> ComponentConfig:
        """Backbone of a role with these weights: the recipe's if it fits (a student's must), or else the model's."""
        if role == "student":
            for key, reason in _other_backbone(self.model.recipe, recipe, self.label):
                raise UserError(f"{key}: {reason}")
        theirs = self.model.recipe.backbone
        return theirs if _differing(theirs, recipe.backbone) else recipe.backbone

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


def random_teacher(name: str, recipe: Recipe) -> str:
    """Why an objective refuses the teacher `name`, which has a noise input."""
    return (
        f"'{name}' has a noise input, so one prediction of it is a random component of a mixture, which objective "
        f"'{recipe.objective.type}' would take for the whole; name a teacher without one"
    )


def misfits(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Keys that name a model which does not fit by its recipe, and why. Models that are not there yet are left out.

    Data are not compared: they are not read.
    """
    roles = OBJECTIVES.get(recipe.objective.type).cls.roles
    named = [(f"start_from.{role}", role, run) for role, run in recipe.start_from.items()]
    if recipe.teacher is not None:
        named.append(("teacher.run", "teacher", recipe.teacher.run))
    for key, role, run in named:
        if not _present(run):
            continue
        weights = recipe.teacher.weights if recipe.teacher is not None and role == "teacher" else "ema"
        try:
            theirs = find_model(run, weights=weights).recipe
        except FewstepError as error:
            yield key, str(error)
            continue
        label = f"teacher '{run}'" if role == "teacher" else f"the run '{run}' of start_from.{role}"
        yield from ((key, f"{where}: {reason}") for where, reason in _misfits(theirs, recipe, label))
        starts_here = role == "student" or (
            role == "teacher" and roles["student"].starts_from == "teacher" and "student" not in recipe.start_from
        )
        if starts_here:
            yield from ((key, f"{where}: {reason}") for where, reason in _other_backbone(theirs, recipe, label))
        if role == "teacher" and theirs.noise_input is not None and roles["teacher"].latents == "refuse":
            yield key, random_teacher(run, recipe)


def _present(run: str) -> bool:
    """Whether anything is there; `.../latest` is there if its folder has a run."""
    path = model_path(run)
    return path.exists() or (path.name == "latest" and any(path.parent.glob("*/recipe.resolved.yaml")))


def _misfits(theirs: Recipe, ours: Recipe, label: str) -> Iterator[tuple[str, str]]:
    """Keys in which a recipe cannot differ from that of a network whose weights it starts from, and why."""
    for key, their_value, our_value in _differing(theirs.process, ours.process):
        yield f"process.{key}", f"{label} has {their_value!r}, this recipe {our_value!r}; they must agree"
    labelled = ours.label_input is not None
    if labelled != (theirs.label_input is not None):
        yes, no = ("this recipe is", "it is not") if labelled else ("it is", "this recipe is not")
        yield (
            "label_input",
            f"{label}: {yes} conditioned on labels, {no}; they share weights, so both have this section or neither",
        )


def _other_backbone(theirs: Recipe, ours: Recipe, label: str) -> Iterator[tuple[str, str]]:
    """The first key in which a student's backbone differs from that of its weights, and why it must not."""
    for key, their_value, our_value in _differing(theirs.backbone, ours.backbone)[:1]:
        yield (
            f"backbone.{key}",
            f"{label} has {their_value!r}, this recipe {our_value!r}; a student that starts from these weights needs "
            "the same backbone; one with a backbone of its own starts from a run that has it "
            "(`start_from: {student: RUN}`)",
        )


def _differing(theirs: ComponentConfig, ours: ComponentConfig) -> list[tuple[str, object, object]]:
    """Keys with different values, and both values; keys that may differ for the same weights are left out.

    Files are compared by their contents, since an export has its own copy.
    """
    a, b = theirs.model_dump(), ours.model_dump()
    by_content = [replace_references(config, _content).model_dump() for config in (theirs, ours)]
    differing = (
        key for key in sorted((a.keys() | b.keys()) - _FREE) if by_content[0].get(key) != by_content[1].get(key)
    )
    return [(key, a.get(key), b.get(key)) for key in differing]


def _content(reference: Reference) -> str:
    """The digest of a file that a setting names, or what it names."""
    return sha256(Path(reference.value)) if Path(reference.value).is_file() else reference.value


def _same(ours: Tensor | None, theirs: Tensor | None) -> bool:
    return ours is not None and theirs is not None and torch.equal(ours, theirs)

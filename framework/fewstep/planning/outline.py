"""Data and networks of a recipe as sizes: what a plan knows without data, without weights and without memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fewstep.core.errors import FewstepError, UserError
from fewstep.data.base import DATASETS, Dataset, DataSpec
from fewstep.denoisers.base import Denoiser, Network
from fewstep.denoisers.half import halve
from fewstep.denoisers.latents import LatentAverage
from fewstep.objectives.base import OBJECTIVES, Objective
from fewstep.processes.base import Process
from fewstep.recipe.models import Recipe
from fewstep.runs.build import build_network, build_process
from fewstep.runs.models import build_component, build_dataset, find_model
from fewstep.runtime.philox import is_native
from fewstep.supervision.base import SUPERVISIONS, Supervision


class Outline(Dataset):
    """Sizes of data in the place of the data."""

    has_data = False

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    def to_text(self, samples: Tensor) -> list[str]:
        return [" ".join(map(str, row)) for row in samples.tolist()]


@dataclass(frozen=True)
class Shapes:
    """Parts of a training whose tensors are only shapes.

    Args:
        mode: what makes tensors without data; whatever is computed with the networks is computed within.
        dataset: the data, or their sizes.
        roles: the network of each role.
        supervision: draws the tokens that a step's losses count; None for all.
        averages: averages of the student's weights: the training's own, and that of the best look.
        assumed: sentences on what was assumed of models that are not here.
    """

    mode: FakeTensorMode
    dataset: Dataset
    process: Process
    objective: Objective
    roles: Mapping[str, Network]
    supervision: Supervision | None = None
    averages: int = 1
    assumed: tuple[str, ...] = ()


def outline_data(recipe: Recipe, vocab: int | None = None, length: int | None = None) -> Dataset:
    """The sizes of a recipe's data: those named, those that its settings say, or those of the data.

    Raises:
        UserError: they are not known without data that cannot be read.
    """
    if vocab is not None and length is not None:
        return Outline(DataSpec(vocab, length))
    spec = None if recipe.label_input else DATASETS.get(recipe.data.type).cls.outline(recipe.data)
    if spec is None:
        try:
            dataset = build_dataset(recipe)
        except FewstepError as error:
            raise UserError(
                f"data: the settings of '{recipe.data.type}' say no sizes, and the data cannot be read ({error}); "
                "name them by --vocab and --length"
            ) from None
        if vocab is None and length is None:
            return dataset
        spec = dataset.spec
    return Outline(DataSpec(vocab or spec.vocab_size, length or spec.length, spec.grid if length is None else None))


def outline(recipe: Recipe, dataset: Dataset) -> Shapes:
    """Networks of a recipe's objective, and the process. Nothing is allocated.

    A teacher that is not here is taken to have the student's backbone.

    Raises:
        UserError: the backbone does not fit the data.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _ = dataset.labels is not None and dataset.classes  # read from labels, which has no answer within
    is_native(torch.device("cpu"))  # compares numbers, which there are none of within, and remembers the answer
    teacher, assumed = _teacher_recipe(recipe)
    with mode:
        process = build_process(recipe, dataset)
        objective = build_component(OBJECTIVES, recipe.objective)
        roles = build(recipe, objective, dataset, process, teacher)
        section, watch = recipe.supervision, recipe.watch
        return Shapes(
            mode,
            dataset,
            process,
            objective,
            roles,
            supervision=None if section is None else build_component(SUPERVISIONS, section),
            averages=2 if watch.times and watch.early_best is not None else 1,
            assumed=assumed,
        )


def build(
    recipe: Recipe, objective: Objective, dataset: Dataset, process: Process, teacher: Recipe | None = None
) -> dict[str, Network]:
    """Untrained networks of the sizes that a training of the recipe has, by role.

    Args:
        teacher: the teacher's recipe; None if its backbone is the student's.
    """
    roles: dict[str, Network] = {}
    for name, role in objective.roles.items():
        like, spec = recipe, role
        if teacher is not None and name == "teacher":
            like, spec = teacher, OBJECTIVES.get(teacher.objective.type).cls.roles["student"]
        elif teacher is not None and role.starts_from == "teacher" and name not in {"student", *recipe.start_from}:
            like = recipe.model_copy(update={"backbone": teacher.backbone})
        roles[name] = build_network(like, dataset, process, spec, purpose=name)
    for name, network in roles.items():
        before = roles.get(objective.roles[name].starts_from or "")
        if before is not None and before is not network and name not in {"student", *recipe.start_from}:
            network.start_from(before)  # which may share its weights
    if recipe.teacher is not None and recipe.teacher.dtype == "bfloat16":
        halve(roles["teacher"])
    teaching = roles.get("teacher")
    if isinstance(teaching, Denoiser) and teaching.has_latent and objective.roles["teacher"].latents == "average":
        assert recipe.teacher is not None
        roles["teacher"] = LatentAverage(teaching, recipe.teacher.latents)
    return roles


def _teacher_recipe(recipe: Recipe) -> tuple[Recipe | None, tuple[str, ...]]:
    """The recipe of the teacher, if it is here, and what is assumed if it is not."""
    if recipe.teacher is None:
        return None, ()
    try:
        return find_model(recipe.teacher.run, weights=recipe.teacher.weights).recipe, ()
    except UserError:
        return None, (f"the teacher '{recipe.teacher.run}' is not here; it is taken to have the student's backbone",)

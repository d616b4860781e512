"""Networks of a training, one for each role: new ones, or with the weights of the teacher or of another run."""

from __future__ import annotations

from collections.abc import Mapping

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
from fewstep.training.origins import Origin, random_teacher


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
        teacher = Origin(model, f"teacher '{model.path}'")
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
        raise UserError(f"teacher.run: {random_teacher(str(model.path), recipe)}")
    assert recipe.teacher is not None
    return LatentAverage(network, recipe.teacher.latents)


def _named_origin(role: str, recipe: Recipe, dataset: Dataset) -> Origin | None:
    """The run that a role starts from by the recipe's `start_from`, if any."""
    run = recipe.start_from.get(role)
    if run is None:
        return None
    model = open_model(run, device="cpu")
    origin = Origin(model, f"the run '{model.path}' of start_from.{role}")
    origin.check(recipe, dataset)
    return origin

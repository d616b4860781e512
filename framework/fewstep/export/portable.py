"""The recipe of an exported folder: without code, and without the absolute paths of the training machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fewstep.core.entries import distribution_of
from fewstep.core.errors import UserError
from fewstep.core.plugins import entry_points
from fewstep.core.references import Reference, references
from fewstep.recipe.checks import component_configs
from fewstep.recipe.models import Recipe
from fewstep.runs.exported import BESIDE


@dataclass(frozen=True)
class Portable:
    """The recipe as plain data, and the models and files that are exported with it.

    Args:
        recipe: the recipe of the exported folder.
        networks: models that the sampler asks, by key of the recipe.
        files: files that the sampler or the process reads, by key of the recipe.
        needs: names of the recipe's plugin files, which are not exported.
    """

    recipe: dict[str, Any]
    networks: tuple[Reference, ...]
    files: tuple[Reference, ...]
    needs: tuple[str, ...] = ()


def portable(recipe: Recipe, role: str = "student") -> Portable:
    """The recipe to export. Only a student draws samples, so only its export has the networks of the sampler.

    Raises:
        UserError: the sampler or the process names a missing file.
    """
    content: dict[str, Any] = recipe.model_dump(mode="json", exclude={"trackers"})  # of the training only
    code = [name for name in content["plugins"] if name.endswith(".py")]
    content["plugins"] = [name for name in content["plugins"] if name not in code]
    needed = [reference for reference in references(recipe) if reference.key.startswith(BESIDE)]
    files = tuple(reference for reference in needed if reference.kind == "file")
    for file in files:
        if not Path(file.value).is_file():
            raise UserError(
                f"{file.key}: no file '{file.value}', which samples need, so that the model cannot be exported"
            )
    networks = tuple(reference for reference in needed if reference.kind == "run")
    networks = networks if role == "student" else ()
    return Portable(strip_absolute_paths(content), networks, files, tuple(Path(name).name for name in code))


def distributions(recipe: BaseModel) -> dict[str, str]:
    """Installed plugins that a recipe's components come from: versions by name, sorted."""
    installed = {point.dist.name for point in entry_points() if point.dist}
    origins = {distribution_of(type(config).__module__) for _, config in component_configs(recipe)}
    return {name: version for name, version in sorted(origins) if name in installed}


def strip_absolute_paths(value: object) -> Any:
    """Absolute paths cut to `runs/NAME/RUN`, or to the last name; the folders above may name a person or machine."""
    if isinstance(value, dict):
        return {name: strip_absolute_paths(below) for name, below in value.items()}
    if isinstance(value, list):
        return [strip_absolute_paths(below) for below in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    parts = Path(value).parts
    return "/".join(parts[-3:]) if parts[-3:-2] == ("runs",) else parts[-1]

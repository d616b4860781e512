"""A recipe as it goes into an exported folder: without code, and without the places of the machine that trained it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.core.errors import UserError
from fewstep.recipe.models import Recipe


@dataclass
class Portable:
    """The recipe as plain data, and what it takes along.

    Args:
        networks: runs that the sampler asks, and which of their roles, by key of the recipe.
        files: files that the sampler reads, by key of the recipe.
        needs: names of Python files that are plugins of it; they stay behind.
    """

    recipe: dict[str, Any]
    networks: dict[str, tuple[str, str]]
    files: dict[str, Path] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def portable(recipe: Recipe, networks: dict[str, tuple[str, str]]) -> Portable:
    """The recipe to export; `networks` as `networks_named` tells them of its sampler.

    Raises:
        UserError: the sampler names a folder that cannot be taken along.
    """
    content: dict[str, Any] = recipe.model_dump(mode="json")
    code = [name for name in content["plugins"] if name.endswith(".py")]
    content["plugins"] = [name for name in content["plugins"] if name not in code]
    found = Portable(content, {f"sampler.{key}": named for key, named in networks.items()})
    found.needs = tuple(Path(name).name for name in code)
    found.files = dict(_files(content["sampler"], "sampler", skip=set(found.networks)))
    found.recipe = strip_absolute_paths(content)
    return found


def _files(value: Any, key: str, skip: set[str]) -> list[tuple[str, Path]]:
    """Absolute paths of existing files in a section, by dotted key; settings that name files are made absolute."""
    if isinstance(value, dict):
        return [found for name, below in value.items() for found in _files(below, f"{key}.{name}", skip)]
    if key in skip or not isinstance(value, str) or not Path(value).is_absolute():
        return []
    if not Path(value).is_file():
        raise UserError(f"{key}: no file '{value}', which samples need, so that the model cannot be exported")
    return [(key, Path(value))]


def strip_absolute_paths(value: Any) -> Any:
    """Absolute paths cut to `runs/NAME/RUN`, or to the last name: the folders above say who trained it and where."""
    if isinstance(value, dict):
        return {name: strip_absolute_paths(below) for name, below in value.items()}
    if isinstance(value, list):
        return [strip_absolute_paths(below) for below in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    parts = Path(value).parts
    return "/".join(parts[-3:]) if parts[-3:-2] == ("runs",) else parts[-1]

"""A recipe as it goes into an exported folder: without code, and without the places of the machine that trained it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.core.errors import UserError
from fewstep.core.references import Reference, references
from fewstep.recipe.models import Recipe


@dataclass(frozen=True)
class Portable:
    """The recipe as plain data, and what it takes along.

    Args:
        recipe: what goes into the exported folder.
        networks: models that the sampler asks.
        files: files that the sampler reads.
        needs: names of Python files that are plugins of it; they stay behind.

    Keys of `networks` and `files` are those of the recipe.
    """

    recipe: dict[str, Any]
    networks: tuple[Reference, ...]
    files: tuple[Reference, ...]
    needs: tuple[str, ...] = ()


def portable(recipe: Recipe, role: str = "student") -> Portable:
    """The recipe to export; networks other than the student sample nothing, and take no networks along.

    Raises:
        UserError: the sampler names a file that is not there.
    """
    content: dict[str, Any] = recipe.model_dump(mode="json")
    code = [name for name in content["plugins"] if name.endswith(".py")]
    content["plugins"] = [name for name in content["plugins"] if name not in code]
    named = [found for found in references(recipe) if found.key.startswith("sampler.")]
    files = tuple(found for found in named if found.kind == "file")
    for found in files:
        if not Path(found.value).is_file():
            raise UserError(
                f"{found.key}: no file '{found.value}', which samples need, so that the model cannot be exported"
            )
    networks = tuple(found for found in named if found.kind == "run") if role == "student" else ()
    return Portable(strip_absolute_paths(content), networks, files, tuple(Path(name).name for name in code))


def strip_absolute_paths(value: object) -> Any:
    """Absolute paths cut to `runs/NAME/RUN`, or to the last name: the folders above say who trained it and where."""
    if isinstance(value, dict):
        return {name: strip_absolute_paths(below) for name, below in value.items()}
    if isinstance(value, list):
        return [strip_absolute_paths(below) for below in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    parts = Path(value).parts
    return "/".join(parts[-3:]) if parts[-3:-2] == ("runs",) else parts[-1]

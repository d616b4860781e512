"""The models shipped inside the package: exported folders, and a manifest with their digests. Loads no torch."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from fewstep.core.component import Strict
from fewstep.core.errors import OperationError
from fewstep.core.names import did_you_mean
from fewstep.runtime.files import read_json

OWNER = "fewstep"
"""Owner of the shipped models on the Hugging Face Hub: `fewstep/NAME` is NAME."""
FOLDER = Path(__file__).resolve().parents[1] / "shipped" / "models"
"""Folder of the shipped models, one below it for each name."""
MANIFEST = "manifest.json"
_NAME = re.compile(rf"(?:{OWNER}/)?([A-Za-z0-9][A-Za-z0-9_.-]*)")


class ShippedModel(Strict):
    """One model of the manifest. Everything in it is read from the exported folder by the script that copies it."""

    summary: str = Field(description="one line")
    suite: str = Field(description="the committed suite that trained it")
    case: str = Field(description="its case there")
    data: str = Field(description="dataset")
    steps: int = Field(ge=1, description="sampling steps that it was trained for")
    parameters: int = Field(ge=1)
    weights_digest: str = Field(description="first 16 digits of the SHA-256 of the weights before any rounding")
    files: dict[str, str] = Field(description="SHA-256 of every file, the card's too")
    bytes: int = Field(ge=1, description="of all files")


class Manifest(Strict):
    """`manifest.json`."""

    format: Literal["fewstep-models/1"] = "fewstep-models/1"
    models: dict[str, ShippedModel] = Field({}, description="by name")


def manifest() -> Manifest:
    """The shipped models; none in an installation without them."""
    return read_manifest(FOLDER)


@cache
def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of models; empty if there is none.

    Raises:
        OperationError: it is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return Manifest()
    remedy = "install fewstep again"
    try:
        return Manifest.model_validate(read_json(file, remedy))
    except ValidationError:
        raise OperationError(f"'{file}' is damaged; {remedy}") from None


def shipped_name(name: str | Path) -> str | None:
    """Name of the shipped model that a text names, `NAME` or `fewstep/NAME`; None if it names none.

    What exists under that path in the current folder wins.
    """
    match = _NAME.fullmatch(str(name))
    if match is None or match[1] not in manifest().models or Path(name).exists():
        return None
    return match[1]


def model_path(name: str | Path) -> Path:
    """Path of a model on this machine: the folder of a shipped model, or the name itself as a path."""
    shipped = shipped_name(name)
    if shipped is None or not (FOLDER / shipped).is_dir():
        return Path(name)
    return FOLDER / shipped


def is_shipped(path: Path) -> bool:
    """Whether a path is the folder of a shipped model."""
    return path.parent == FOLDER


def suggestion(name: str) -> str:
    """The phrase that follows the name of a missing model: the nearest shipped one, or how to list them."""
    known = manifest().models
    return did_you_mean(name.removeprefix(f"{OWNER}/"), known) or "; `fewstep models` lists those that need no training"

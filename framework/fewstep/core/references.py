"""Settings that name a model or a file: `Annotated[str, Ref("run")]`.

`references` walks a section once and finds all such settings, those of plugins too. Export, resume, digests,
`${env:NAME}` and the opening of models use it, so that none of them depends on the spelling of a setting.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fewstep.core.echo import shown
from fewstep.core.recipe_view import RecipeView

Kind = Literal["run", "model", "file"]
Refuses = Callable[[RecipeView], str | None] | None
"""Reason to refuse a model of a recipe, as a phrase after its name ("is no classifier"); None if it is accepted."""
ENVIRONMENT = re.compile(r"\$\{env:([^}]*)\}")
"""`${env:NAME}`; only references may contain it."""


S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True)
class Ref:
    """Marks a setting that names a model or a file outside the recipe.

    Args:
        kind: "run" names a run folder, an exported folder or an exported file. "model" names one of these, in a suite
            also one of its cases, or a Hugging Face model (hf:NAME). "file" names a file or folder.
        role: network of the model.
        weights: averaged or raw weights of the student, if `weights_key` is None.
        weights_key: setting of the same section that selects the weights.
    """

    kind: Kind = "run"
    role: str = "student"
    weights: Literal["ema", "raw"] = "ema"
    weights_key: str | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_from_environment, handler(source))


@dataclass(frozen=True)
class Reference:
    """One setting with a `Ref`: its dotted `key` below the section, its `value`, and the role and weights it names."""

    key: str
    value: str
    kind: Kind
    role: str
    weights: Literal["ema", "raw"]


def references(section: BaseModel) -> Iterator[Reference]:
    """Every setting of a section with a `Ref`, at any depth, in the section's order."""
    for key, value, ref, owner in _walk(section):
        weights = getattr(owner, ref.weights_key) if ref.weights_key else ref.weights
        yield Reference(".".join(key), value, ref.kind, ref.role, weights)


def replace_references(section: S, change: Callable[[Reference], str]) -> S:
    """The section with the value `change(reference)` for each reference."""
    for reference in list(references(section)):
        value = change(reference)
        if value != reference.value:
            section = _put(section, reference.key.split("."), value)
    return section


class OpenedModel(Protocol):
    """A model that a setting names, with its weights; `fewstep.runs.models.TrainedModel` implements it."""

    @property
    def path(self) -> Path:
        """The run's folder, or the exported folder or file."""

    @property
    def derived(self) -> Path:
        """Folder for files derived from the model, such as codes of images."""

    @property
    def network(self) -> Any:
        """The network of the requested role, frozen and in eval mode."""

    @property
    def dataset(self) -> Any:
        """The training data, or a dataset without data that shows samples."""

    @property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of the network's weights."""


class Opener(Protocol):
    """Opens the model that a setting of a component names."""

    def __call__(
        self,
        config: BaseModel,
        key: str,
        *,
        device: str,
        dataset: Any,
        refuses: Refuses,
    ) -> OpenedModel:
        """See `Component.open_model`."""


def _from_environment(value: object) -> object:
    """The setting with environment variables substituted for `${env:NAME}`."""
    if not isinstance(value, str):
        return value
    missing = [name for name in ENVIRONMENT.findall(value) if name not in os.environ]
    if missing:
        text = f"environment variable '{shown(missing[0])}' is not set"
        raise PydanticCustomError("environment", "{text}", {"text": text})
    return ENVIRONMENT.sub(lambda match: os.environ[match[1]], value)


def _walk(section: BaseModel) -> Iterator[tuple[tuple[str, ...], str, Ref, BaseModel]]:
    for name, field in type(section).model_fields.items():
        for key, value, ref in _below(getattr(section, name), field.annotation, field.metadata, (name,)):
            if isinstance(value, BaseModel):
                yield from (((*key, *below), *rest) for below, *rest in _walk(value))  # type: ignore[misc]
            elif ref is not None and isinstance(value, str):
                yield key, value, ref, section


def _below(
    value: object, annotation: object, metadata: Iterable[object], key: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], object, Ref | None]]:
    """Sections and marked strings within a value, inside dicts, lists and optional annotations."""
    annotation, marks = _unwrapped(annotation, metadata)
    if isinstance(value, BaseModel) or (isinstance(value, str) and marks):
        yield key, value, marks[0] if marks else None
    elif isinstance(value, dict):
        inner = (get_args(annotation) or (Any, Any))[1]
        for name, item in value.items():
            yield from _below(item, inner, marks, (*key, str(name)))
    elif isinstance(value, list | tuple):
        inner = (get_args(annotation) or (Any,))[0]
        for index, item in enumerate(value):
            yield from _below(item, inner, marks, (*key, str(index)))


def _unwrapped(annotation: object, metadata: Iterable[object]) -> tuple[object, list[Ref]]:
    """An annotation without `Annotated` and `| None`, and its marks."""
    marks = [mark for mark in metadata if isinstance(mark, Ref)]
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            marks += [mark for mark in more if isinstance(mark, Ref)]
        elif get_origin(annotation) in (Union, UnionType):
            choices = [choice for choice in get_args(annotation) if choice is not type(None)]
            if len(choices) != 1:
                return annotation, marks
            annotation = choices[0]
        else:
            return annotation, marks


def _put(value: Any, key: list[str], new: str) -> Any:
    if not key:
        return new
    first, *below = key
    if isinstance(value, BaseModel):
        return value.model_copy(update={first: _put(getattr(value, first), below, new)})
    if isinstance(value, dict):
        return {**value, first: _put(value[first], below, new)}
    return type(value)(_put(item, below, new) if str(index) == first else item for index, item in enumerate(value))

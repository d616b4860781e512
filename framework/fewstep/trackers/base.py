"""Trackers: programs that record and show the numbers of trainings.

Shapes: H, W height and width of a picture.
"""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.places import unlinked
from fewstep.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Scalar = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """A training, as its trackers know it.

    Args:
        name: of its recipe, or of its folder.
        path: its folder; files of a tracker go to the folder `folder` in it.
        id: random id, which stays the same when the training goes on.
        start: step that the training goes on from, 0 for a new one: values of later steps are void. None where values
            are added to a training that has ended, as an evaluation does.
        settings: the recipe by dotted key.
    """

    name: str
    path: Path
    id: str
    start: int | None
    settings: Mapping[str, Scalar]

    @property
    def folder(self) -> Path:
        """Folder for files of trackers, which is made."""
        folder = unlinked(self.path / "trackers")
        folder.mkdir(exist_ok=True)
        return folder


class Tracker(Component, ABC):
    """Records what a training logs. Only the first of several ranks has trackers.

    `begin` comes first and `end` last. Any method may raise any error: the tracker is then left out, which is said
    once, and the training goes on. Methods are called from the training's own thread, so one that waits delays it.
    """

    package: ClassVar[str] = ""
    """Module that must be installed, if any."""
    extra: ClassVar[str] = ""
    """What installs it, for the message: `pip install '...'`."""
    sends: ClassVar[bool] = True
    """Whether values may leave the run's folder; `fewstep evaluate` then records them on request only."""

    @abstractmethod
    def begin(self, run: TrackedRun) -> None:
        """Open the record of a training, or go on with it."""

    @abstractmethod
    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers of a step, by names such as `train/loss/student`."""

    def text(self, name: str, text: str, step: int) -> None:
        """Record a text, such as samples of a text model."""

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """Record a picture, float [3, H, W] in [0, 1]."""

    @abstractmethod
    def end(self, state: str) -> None:
        """Write what is left. `state` is `finished`, `stopped` or `failed`."""


def refuse_missing(trackers: Iterable[ComponentConfig]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        UserError: one is not.
    """
    for config in trackers:
        cls = TRACKERS.get(config.type).cls
        if cls.package and importlib.util.find_spec(cls.package) is None:
            install = f"pip install '{cls.extra}'" if cls.extra else f"install {cls.package}"
            raise UserError(
                f"trackers: '{config.type}' needs the package {cls.package}, which is not installed: {install}, "
                "or leave it out"
            )


def flat(settings: Mapping[str, object], above: str = "") -> dict[str, Scalar]:
    """Nested settings by dotted key; lists as JSON, and null as "null"."""
    values: dict[str, Scalar] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{above}{key}.")
        else:
            values[f"{above}{key}"] = value if isinstance(value, str | int | float) else json.dumps(value)
    return values


TRACKERS: Registry[Tracker] = Registry("tracker", Tracker, "fewstep.trackers")

"""What registries hold: entries, where each came from, and a ledger by which failed registrations are undone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import packages_distributions, version
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from fewstep.core.component import Component
from fewstep.core.errors import FewstepError
from fewstep.core.version import __version__

T = TypeVar("T", bound=Component)


class RegistryError(FewstepError, ValueError):
    """A component could not be registered: wrong base class, config without its name, or a collision."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered component, where it came from, and the entry that it replaced, if any."""

    name: str
    cls: type[T]
    replaced: Entry[T] | None = None

    @cached_property
    def place(self) -> tuple[str, int]:
        """File and line of the class, as far as Python knows them."""
        try:
            return inspect.getsourcefile(self.cls) or "<unknown>", inspect.getsourcelines(self.cls)[1]
        except (OSError, TypeError):
            return "<unknown>", 0

    @cached_property
    def distribution(self) -> tuple[str, str]:
        """Name and version of what brought it."""
        return distribution_of(self.cls.__module__)

    @property
    def origin(self) -> str:
        """`distribution version (file:line)`."""
        return f"{' '.join(filter(None, self.distribution))} ({self.place[0]}:{self.place[1]})"

    @property
    def summary(self) -> str:
        """First paragraph of the class's docstring, on one line."""
        return " ".join((inspect.getdoc(self.cls) or "").split("\n\n")[0].split())

    def same_source(self, other: Entry[Any]) -> bool:
        """Whether both are one class: a module that is imported again defines its classes again."""
        places = [(e.place[0] if e.place[1] else e.cls.__module__, e.cls.__qualname__) for e in (self, other)]
        return self.cls is other.cls or places[0] == places[1]


class Ledger(Protocol):
    """A registry, as far as its entries go."""

    _entries: dict[str, Entry[Any]]


_registries: WeakSet[Ledger] = WeakSet()
_origins: dict[str, tuple[str, str]] = {}
"""Name and version of the distribution that brought a module, by its top-level name, where a plugin's loader knows."""


def record_origin(top: str, distribution: tuple[str, str]) -> None:
    """Say which distribution (name, version) brings the top-level module `top`, before it registers anything."""
    _origins[top] = distribution


def distribution_of(module: str) -> tuple[str, str]:
    """Name and version of what brought a module: "fewstep", a distribution, or a recipe's plugin file."""
    top = module.split(".")[0]
    if top == "fewstep":
        return "fewstep", __version__
    return _origins.get(top) or _installed(top)


@functools.cache
def _installed(top: str) -> tuple[str, str]:
    names = packages_distributions().get(top)
    return (names[0], version(names[0])) if names else (top, "")


@contextmanager
def undo_registrations_on_failure(owner: str) -> Iterator[None]:
    """If the block raises, take back what modules of the top-level package `owner` registered in it, anywhere.

    Built-in components that the block brought in on the way stay, since Python will not import them again.
    """
    before = {registry: dict(registry._entries) for registry in _registries}
    try:
        yield
    except BaseException:
        for registry in list(_registries):
            for name, entry in list(registry._entries.items()):
                known = before.get(registry, {}).get(name)
                kept: Entry[Any] | None = entry
                while kept and kept is not known and kept.cls.__module__.split(".")[0] == owner:
                    kept = kept.replaced
                if kept is None:
                    del registry._entries[name]
                else:
                    registry._entries[name] = kept
        raise

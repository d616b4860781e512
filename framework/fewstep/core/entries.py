"""Entries of registries: their origins, and the undoing of failed registrations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import packages_distributions, version
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakSet

from fewstep.core.errors import FewstepError
from fewstep.core.version import __version__

if TYPE_CHECKING:
    from fewstep.core.component import Component

T = TypeVar("T", bound="Component")


class RegistryError(FewstepError, ValueError):
    """A component cannot be registered: wrong base class, config without its name, or a collision."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered component, its origin, and the entry that it replaced, if any."""

    name: str
    cls: type[T]
    replaced: Entry[T] | None = None

    @cached_property
    def place(self) -> tuple[str, int]:
        """File and line of the class; ("<unknown>", 0) if Python does not know them."""
        try:
            return inspect.getsourcefile(self.cls) or "<unknown>", inspect.getsourcelines(self.cls)[1]
        except (OSError, TypeError):
            return "<unknown>", 0

    @cached_property
    def distribution(self) -> tuple[str, str]:
        """Name and version of the distribution of the class."""
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
        """Whether both are one class in the source; a second import of a module defines its classes again."""
        places = [(e.place[0] if e.place[1] else e.cls.__module__, e.cls.__qualname__) for e in (self, other)]
        return self.cls is other.cls or places[0] == places[1]


class Ledger(Protocol):
    """A registry, seen as its entries."""

    _entries: dict[str, Entry[Any]]


_registries: WeakSet[Ledger] = WeakSet()
_origins: dict[str, tuple[str, str]] = {}
"""Distributions (name, version) of plugin modules, by top-level module name; filled by the plugin loader."""


def record_origin(top: str, distribution: tuple[str, str]) -> None:
    """Record the distribution (name, version) of the top-level module `top`, before it registers components."""
    _origins[top] = distribution


def distribution_of(module: str) -> tuple[str, str]:
    """Name and version of a module's origin: "fewstep", a distribution, or a recipe's plugin file."""
    top = module.split(".")[0]
    if top == "fewstep":
        return "fewstep", __version__
    return _origins.get(top) or _installed(top)


@functools.cache
def _installed(top: str) -> tuple[str, str]:
    names = packages_distributions().get(top)
    return (names[0], version(names[0])) if names else (top, "")


def registered_classes(top: str) -> Iterator[type[object]]:
    """Registered components of the top-level module `top`, with the base classes that it defines."""
    for registry in list(_registries):
        for entry in registry._entries.values():
            yield from (cls for cls in entry.cls.__mro__ if cls.__module__.split(".")[0] == top)


@contextmanager
def undo_registrations_on_failure(owner: str) -> Iterator[None]:
    """If the block raises, undo the registrations of the top-level package `owner` in all registries.

    Built-in components that the block imported stay registered, since Python does not import them again.
    """
    before = {registry: dict(registry._entries) for registry in _registries}
    try:
        yield
    except BaseException:
        for registry in list(_registries):
            for name, entry in list(registry._entries.items()):
                earlier = before.get(registry, {}).get(name)
                survivor: Entry[Any] | None = entry
                while survivor and survivor is not earlier and survivor.cls.__module__.split(".")[0] == owner:
                    survivor = survivor.replaced
                if survivor is None:
                    del registry._entries[name]
                else:
                    registry._entries[name] = survivor
        raise

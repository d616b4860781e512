"""`Registry`: components by name. It refuses collisions, suggests names for typos, and imports components lazily."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Generic

from pydantic import ValidationError
from pydantic_core import InitErrorDetails

from fewstep.core.component import ComponentConfig, custom_error
from fewstep.core.echo import shown
from fewstep.core.entries import Entry, RegistryError, T, _registries
from fewstep.core.names import did_you_mean
from fewstep.core.plugins import failure_notes, load_entry_points
from fewstep.core.references import Opener

Raw = str | Mapping[str, object] | ComponentConfig
"""Description of a component: its name, keys with `type: NAME`, or its validated settings."""


class Registry(Generic[T]):
    """Components of one kind, by name.

    Args:
        kind: readable name of the kind ("noise schedule").
        base: class that every entry derives from.
        package: package whose modules hold the built-in entries; imported on the first look-up.
    """

    def __init__(self, kind: str, base: type[Any], package: str) -> None:
        self.kind = kind
        self.base = base
        self.package = package
        self._entries: dict[str, Entry[T]] = {}
        self._scanned = False
        _registries.add(self)

    def register(self, name: str, *, replaces: str | None = None) -> Callable[[type[T]], type[T]]:
        """Class decorator that adds a component under `name`.

        Args:
            name: name in recipes.
            replaces: the same name, to replace an existing component on purpose.

        Raises:
            RegistryError: the base class is wrong, the `Config` has another name, or the name is taken.
        """

        def add(cls: type[T]) -> type[T]:
            self._check(name, cls)
            if not cls.__module__.startswith(f"{self.package}."):
                self.load_built_in()  # built-ins come first, so that a collision fails in the plugin's registration
            existing = self._entries.get(name)
            entry = Entry(name, cls, replaced=existing)
            if existing and not existing.same_source(entry) and replaces != name:
                raise RegistryError(
                    f"two components claim the {self.kind} name '{name}': {existing.origin} and {entry.origin}; "
                    f'rename one, or register with replaces="{name}" to replace it on purpose'
                )
            self._entries[name] = entry
            return cls

        return add

    def _check(self, name: str, cls: type[T]) -> None:
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise RegistryError(f"{self.kind} '{name}' must be a class derived from {self.base.__name__}")
        for old, instead in self.base.moved.items():
            if any(old in vars(base) for base in cls.__mro__):
                raise RegistryError(
                    f"{self.kind} '{name}' ({cls.__qualname__}) defines {old} itself, which nothing calls; {instead}"
                )
        base_config = self.base.Config
        if not issubclass(cls.Config, base_config):
            raise RegistryError(
                f"{self.kind} '{name}' ({cls.__qualname__}) needs a Config derived from {base_config.__name__} of "
                f"{base_config.__module__}"
            )
        default = cls.Config.model_fields["type"].default
        if default != name:
            raise RegistryError(
                f"{self.kind} '{name}' ({cls.__qualname__}) needs a Config of its own with the line "
                f'`type: Literal["{name}"] = "{name}"`; its type is {default!r}'
            )

    def get(self, name: str) -> Entry[T]:
        """The entry of a name.

        Raises:
            LookupError: there is no such name; the message suggests the nearest and lists the known names.
        """
        self._import(name)
        load_entry_points()  # a plugin may replace it
        if name not in self._entries:
            self.load_built_in()
        if name not in self._entries:
            raise LookupError(self._unknown(name))
        return self._entries[name]

    def names(self) -> list[str]:
        """Every known name, sorted."""
        self._load()
        return sorted(self._entries)

    def entries(self) -> Iterator[Entry[T]]:
        """Every entry, sorted by name."""
        return iter([self.get(name) for name in self.names()])

    def _unknown(self, name: str) -> str:
        hint = did_you_mean(name, self._entries) or ";"
        known = ", ".join(self.names()) or "none"
        return "; ".join([f"no {self.kind} named '{shown(name)}'{hint} known: {known}", *failure_notes()])

    def _load(self) -> None:
        self.load_built_in()
        load_entry_points()

    def _import(self, name: str) -> None:
        """Import the built-in component that has a file of its name; the whole package would take half a second."""
        if name in self._entries or self._scanned or not name.isidentifier():
            return
        root = Path(import_module(self.package).__path__[0])
        for file in (file for file in root.rglob("*.py") if file.stem == name):  # a name may be too long for a path
            import_module(".".join([self.package, *file.relative_to(root).with_suffix("").parts]))

    def load_built_in(self) -> None:
        """Import every module of the package and of the packages in it, once."""
        if self._scanned:
            return
        self._scanned = True  # set first, since those modules look names up during their import
        try:
            package = import_module(self.package)
            for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
                import_module(module.name)
        except BaseException:
            self._scanned = False
            raise

    def parse(self, raw: Raw) -> ComponentConfig:
        """The validated config of a component, from `"name"`, `{"type": "name", ...}` or a config object.

        Raises:
            pydantic.ValidationError, PydanticCustomError: the config is invalid; places are relative to the section.
        """
        if isinstance(raw, ComponentConfig):
            return raw
        if isinstance(raw, str):
            raw = {"type": raw}
        name = raw.get("type") if isinstance(raw, Mapping) else None
        if not isinstance(raw, Mapping) or not isinstance(name, str):
            known = ", ".join(self.names())
            raise custom_error(
                "component", f"expected the name of a {self.kind}, or keys with `type: NAME`; known: {known}"
            )
        try:
            entry = self.get(name)
        except LookupError as error:
            unknown = custom_error("unknown_component", str(error.args[0]))
            details = InitErrorDetails(type=unknown, loc=("type",), input=name)
            raise ValidationError.from_exception_data(self.kind, [details]) from None
        return entry.cls.Config.model_validate(dict(raw))

    def build(self, config: Raw, *, opener: Opener | None = None, **runtime: Any) -> T:
        """Create a component from its config (anything that `parse` accepts).

        Args:
            opener: function that opens the models named by settings; defined in `fewstep.runs.models`.
        """
        parsed = self.parse(config)
        cls = self.get(parsed.type).cls
        component = cls.__new__(cls)
        if opener is not None:  # set before the constructor, which may open models
            component.opener = opener
        component.__init__(parsed, **runtime)  # type: ignore[misc]
        return component

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Undo every registration inside the `with` block (for the isolation of tests)."""
        self._load()
        before = dict(self._entries)
        try:
            yield
        finally:
            self._entries = before

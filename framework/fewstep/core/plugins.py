"""Plugins: modules whose import registers components, found through entry points or listed by a recipe.

The failure of a plugin of an entry point is recorded, undone, and shown by `fewstep list` and in "no such name"
messages. The failure of a plugin that a recipe lists is an error. This module loads no torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from fewstep.core.entries import (
    distribution_of,
    record_origin,
    registered_classes,
    undo_registrations_on_failure,
)
from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean

GROUP = "fewstep.plugins"


class PluginError(UserError):
    """A plugin of a recipe cannot be loaded."""


@dataclass(frozen=True)
class Plugin:
    """One plugin and the result of its loading; `error` is None for success."""

    name: str
    module: str
    distribution: str
    version: str
    error: str | None = None

    def __str__(self) -> str:
        origin = " ".join(filter(None, [self.distribution, self.version]))
        return f"{self.name} ({origin}{', failed' if self.error else ''})"


class _Loader:
    """The plugins of this process."""

    def __init__(self) -> None:
        self.plugins: dict[str, Plugin] = {}
        self.discovered = False

    def load(self, name: str, module: str, origin: tuple[str, str], importer: Callable[[], object]) -> Plugin:
        """Import one module unless it is loaded; a failure undoes all its registrations."""
        plugin = self.plugins.get(module)
        if plugin and not plugin.error and module in sys.modules:
            return plugin
        # Recorded before the import, since a registration looks up the origin.
        self.plugins[module] = Plugin(name, module, *origin)
        record_origin(_top(module), origin)
        try:
            with _undo_on_failure(_top(module)):
                importer()
        except (Exception, SystemExit) as error:
            self.plugins[module] = Plugin(name, module, *origin, error=_error_message(error, _top(module)))
        return self.plugins[module]


_loader = _Loader()


def load_entry_points() -> None:
    """Import every installed plugin once, sorted by name; failures are recorded, not raised.

    `FEWSTEP_PLUGINS=a,b` selects plugins by name, and `none` loads no plugin.
    """
    if _loader.discovered:
        return
    _loader.discovered = True  # set first, since plugins look names up during their import
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    allowed = os.environ.get("FEWSTEP_PLUGINS")
    if allowed is not None:
        selected = [name.strip() for name in allowed.split(",") if name.strip() not in ("", "none")]
        installed = [point.name for point in points]
        for name in selected:
            if name not in installed:
                hint = did_you_mean(name, installed)
                _loader.plugins[name] = Plugin(
                    name, "", "", "", f"FEWSTEP_PLUGINS names it, but it is not installed{hint}"
                )
        points = [point for point in points if point.name in selected]
    for point in points:
        _load_point(point)


def load_required(name: str) -> Plugin:
    """Import a plugin that a recipe lists: a distribution, an importable module, or the path of a .py file.

    Raises:
        PluginError: the plugin does not exist, or its import fails.
    """
    load_entry_points()
    points = [p for p in entry_points(group=GROUP) if _plain(name) in (_plain(p.name), _plain(_origin(p)[0]))]
    if name.endswith(".py"):
        plugins = [_load_file(Path(name))]
    elif points:
        plugins = [_load_point(point) for point in points]
    else:
        plugins = [_load_module(name)]
    for plugin in plugins:
        if plugin.error:
            raise PluginError(f"plugin '{name}' failed to load: {plugin.error}")
    return plugins[0]


def loaded() -> list[Plugin]:
    """Every plugin of this process, failed ones too."""
    return sorted(_loader.plugins.values(), key=lambda plugin: plugin.name)


def failure_notes() -> list[str]:
    """One sentence per failed plugin."""
    return [f"plugin '{plugin.name}' failed to load: {plugin.error}" for plugin in loaded() if plugin.error]


def blame(error: BaseException) -> str | None:
    """One sentence about an error whose traceback has a line of a plugin; None if it has none."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        top = _top(frame.f_globals.get("__name__", ""))
        for plugin in loaded():
            if top == _top(plugin.module):
                return f"plugin '{plugin.name}': {_error_message(error, top)}"
    return _wrong_signature(error)


def _wrong_signature(error: BaseException) -> str | None:
    """One sentence about a call of a plugin's function with arguments that it does not take.

    No frame of the plugin is in the traceback; Python's message begins with the function: `Mine.loss() takes ...`.
    """
    match = re.match(r"([\w.]+)\(\) (takes|missing|got)", str(error))
    if not isinstance(error, TypeError) or not match:
        return None
    owner, _, name = match[1].rpartition(".")
    for plugin in loaded():
        for cls in registered_classes(_top(plugin.module)):
            if cls.__qualname__ == owner:
                place = getattr(getattr(cls, name, None), "__code__", None)
                line = f" ({place.co_filename}:{place.co_firstlineno})" if place else ""
                return f"plugin '{plugin.name}': {error}{line}; its base class says what it is called with"
    return None


def _load_point(point: EntryPoint) -> Plugin:
    return _loader.load(point.name, point.module, _origin(point), point.load)


def _load_module(name: str) -> Plugin:
    top = _top(name)
    if not re.fullmatch(r"\w+(\.\w+)*", name) or not (top in sys.modules or importlib.util.find_spec(top)):
        names = [text for point in entry_points(group=GROUP) for text in (point.name, _origin(point)[0])]
        raise PluginError(
            f"no plugin '{name}': neither an installed distribution with a `{GROUP}` entry point, nor an importable "
            f"module, nor a path that ends in .py{did_you_mean(name, names)}"
        )
    return _loader.load(name, name, distribution_of(top), lambda: import_module(name))


def _load_file(path: Path) -> Plugin:
    path = path.resolve()
    if not path.is_file():
        raise PluginError(f"no plugin file '{path}'")
    # The hash keeps the modules of two files of one name apart.
    module = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    return _loader.load(str(path), module, (path.name, ""), lambda: _import_file(path, module))


def _import_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _undo_on_failure(top: str) -> Iterator[None]:
    """If the block fails, undo all registrations and imports of the top-level module `top`."""
    before = set(sys.modules)
    try:
        with undo_registrations_on_failure(top):
            yield
    except BaseException:
        for name in set(sys.modules) - before:
            if _top(name) == top:
                del sys.modules[name]
        raise


def _error_message(error: BaseException, top: str) -> str:
    """Type, message and place of an error; the place is the innermost line of the plugin."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.walk_tb(error.__traceback__)
    own = [f"{f.f_code.co_filename}:{line}" for f, line in frames if _top(f.f_globals.get("__name__", "")) == top]
    return f"{text} ({own[-1]})" if own else text


def _top(module: str) -> str:
    return module.split(".")[0]


def _origin(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else (_top(point.module), "")


def _plain(name: str) -> str:
    """A distribution's name in normal form, without case and punctuation (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

"""Plugins: modules whose import registers components. Found through entry points, or listed by a recipe.

What is only found is best effort: its failure is recorded, undone and shown by `fewstep list` and in "no such
name" messages. What a recipe lists is required: its failure is an error. Loads no torch itself.
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

from fewstep.core.component import did_you_mean
from fewstep.core.entries import distribution_of, record_origin, undo_registrations_on_failure
from fewstep.core.errors import UserError

GROUP = "fewstep.plugins"


class PluginError(UserError):
    """A plugin that a recipe needs cannot be loaded."""


@dataclass(frozen=True)
class Plugin:
    """One plugin and how loading it went; `error` is None for success."""

    name: str
    module: str
    distribution: str
    version: str
    error: str | None = None

    def __str__(self) -> str:
        origin = " ".join(filter(None, [self.distribution, self.version]))
        return f"{self.name} ({origin}{', failed' if self.error else ''})"


class _Loader:
    """What has been loaded in this process."""

    def __init__(self) -> None:
        self.plugins: dict[str, Plugin] = {}
        self.discovered = False

    def load(self, name: str, module: str, origin: tuple[str, str], importer: Callable[[], object]) -> Plugin:
        """Import one module unless that was done; on failure, none of its registrations stay."""
        known = self.plugins.get(module)
        if known and not known.error and module in sys.modules:
            return known
        # Recorded before the import, since registering looks the origin up.
        self.plugins[module] = Plugin(name, module, *origin)
        record_origin(_top(module), origin)
        try:
            with _undone_on_failure(_top(module)):
                importer()
        except (Exception, SystemExit) as error:
            self.plugins[module] = Plugin(name, module, *origin, error=_told(error, _top(module)))
        return self.plugins[module]


_loader = _Loader()


def load_entry_points() -> None:
    """Import every installed plugin, once, sorted by name; failures are recorded and never raised.

    `FEWSTEP_PLUGINS=a,b` limits this to some names, and `none` turns it off.
    """
    if _loader.discovered:
        return
    _loader.discovered = True  # first, since plugins look names up while they are imported
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    allowed = os.environ.get("FEWSTEP_PLUGINS")
    if allowed is not None:
        wanted = [name.strip() for name in allowed.split(",") if name.strip() not in ("", "none")]
        known = [point.name for point in points]
        for name in wanted:
            if name not in known:
                hint = did_you_mean(name, known)
                _loader.plugins[name] = Plugin(
                    name, "", "", "", f"FEWSTEP_PLUGINS names it, but it is not installed{hint}"
                )
        points = [point for point in points if point.name in wanted]
    for point in points:
        _load_point(point)


def load_required(name: str) -> Plugin:
    """Import a plugin that a recipe lists: a distribution, an importable module, or the path of a .py file.

    Raises:
        PluginError: it is not there, or fails to import.
    """
    load_entry_points()
    points = [p for p in entry_points(group=GROUP) if _plain(name) in (_plain(p.name), _plain(_origin(p)[0]))]
    if name.endswith(".py"):
        done = [_load_file(Path(name))]
    elif points:
        done = [_load_point(point) for point in points]
    else:
        done = [_load_module(name)]
    for plugin in done:
        if plugin.error:
            raise PluginError(f"plugin '{name}' failed to load: {plugin.error}")
    return done[0]


def loaded() -> list[Plugin]:
    """Every plugin met so far, failed ones too."""
    return sorted(_loader.plugins.values(), key=lambda plugin: plugin.name)


def failure_notes() -> list[str]:
    """One sentence for each plugin that failed."""
    return [f"plugin '{plugin.name}' failed to load: {plugin.error}" for plugin in loaded() if plugin.error]


def blame(error: BaseException) -> str | None:
    """One sentence about an error that a plugin's own line raised or passed on; None if no plugin took part."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        top = _top(frame.f_globals.get("__name__", ""))
        for plugin in loaded():
            if top == _top(plugin.module):
                return f"plugin '{plugin.name}': {_told(error, top)}"
    return None


def _load_point(point: EntryPoint) -> Plugin:
    return _loader.load(point.name, point.module, _origin(point), point.load)


def _load_module(name: str) -> Plugin:
    top = _top(name)
    if not re.fullmatch(r"\w+(\.\w+)*", name) or not (top in sys.modules or importlib.util.find_spec(top)):
        known = [text for point in entry_points(group=GROUP) for text in (point.name, _origin(point)[0])]
        raise PluginError(
            f"no plugin '{name}': neither an installed distribution with a `{GROUP}` entry point, nor an importable "
            f"module, nor a path that ends in .py{did_you_mean(name, known)}"
        )
    return _loader.load(name, name, distribution_of(top), lambda: import_module(name))


def _load_file(path: Path) -> Plugin:
    path = path.resolve()
    if not path.is_file():
        raise PluginError(f"no plugin file '{path}'")
    # Unique, so that two files of one name do not get in each other's way.
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
def _undone_on_failure(top: str) -> Iterator[None]:
    """If the block fails, nothing of the top-level module `top` stays: no registration and no import."""
    before = set(sys.modules)
    try:
        with undo_registrations_on_failure(top):
            yield
    except BaseException:
        for name in set(sys.modules) - before:
            if _top(name) == top:
                del sys.modules[name]
        raise


def _told(error: BaseException, top: str) -> str:
    """Type, message and place of an error, the place being the innermost line of the plugin's own."""
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
    """A distribution's name as it is compared: case and punctuation do not count."""
    return re.sub(r"[-_.]+", "-", name).lower()

"""Plugins: modules whose import registers components, found through entry points or listed by a recipe.

The failure of a plugin of an entry point is recorded, undone, and shown by `fewstep list` and in "no such name"
messages. The failure of a plugin that a recipe lists is an error. This module loads no torch.

A recipe may list files and modules, and importing them runs code. Only a recipe that a person named to `train`,
`distill` or `benchmark` is trusted with that; recipes within models are not, unless `trusting_plugins` says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType

from fewstep.core.api import needed_api, unmet_api
from fewstep.core.echo import shown
from fewstep.core.entries import (
    distribution_of,
    record_origin,
    registered_classes,
    undo_registrations_on_failure,
)
from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean

GROUP = "fewstep.plugins"
_MODULE = re.compile(r"\w+(\.\w+)*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
"""Whether recipes within models may run code."""


class PluginError(UserError):
    """A plugin of a recipe cannot be loaded."""


class UntrustedPluginError(PluginError):
    """A recipe lists code, and nobody said that it is trusted."""


@contextmanager
def trusting_plugins(trust: bool = True) -> Iterator[None]:
    """Context in which recipes within models may list plugin files and modules; importing them runs their code.

    Args:
        trust: False changes nothing.
    """
    token = _trusted.set(_trusted.get() or trust)
    try:
        yield
    finally:
        _trusted.reset(token)


def plugins_are_trusted() -> bool:
    """Whether the caller is inside `trusting_plugins`."""
    return _trusted.get()


@dataclass(frozen=True)
class Plugin:
    """One plugin and the result of its loading.

    Args:
        needs: versions of fewstep that its distribution states, or "".
        file: file of its module, or "" if Python does not know it.
        seconds: duration of its import, with everything that it was the first to import.
        error: why it is not loaded; None if it is.
    """

    name: str
    module: str
    distribution: str
    version: str
    error: str | None = None
    needs: str = ""
    file: str = ""
    seconds: float = 0.0

    @property
    def origin(self) -> str:
        """Distribution and version; the version of a file is not known."""
        return " ".join(filter(None, [self.distribution, self.version]))

    def __str__(self) -> str:
        return f"{self.name} ({self.origin}{', failed' if self.error else ''})"


class _Loader:
    """The plugins of this process."""

    def __init__(self) -> None:
        self.plugins: dict[str, Plugin] = {}
        self.discovered = False

    def load(self, plugin: Plugin, importer: Callable[[], object]) -> Plugin:
        """Import one module unless it is loaded or refused; a failure undoes all its registrations."""
        module = plugin.module
        earlier = self.plugins.get(module)
        if earlier and not earlier.error and module in sys.modules:
            return earlier
        # Recorded before the import, since a registration looks up the origin.
        self.plugins[module] = plugin
        record_origin(_top(module), (plugin.distribution, plugin.version))
        start, error = time.perf_counter(), plugin.error
        try:
            if error is None:
                with _undo_on_failure(_top(module)):
                    importer()
        except (Exception, SystemExit) as failure:
            error = _error_message(failure, _top(module))
        seconds = time.perf_counter() - start
        self.plugins[module] = replace(plugin, error=error, file=_file_of(module), seconds=seconds)
        return self.plugins[module]


_loader = _Loader()


def load_entry_points() -> None:
    """Import every installed plugin once, sorted by name; failures are recorded, not raised.

    `FEWSTEP_PLUGINS=a,b` selects plugins by name, and `none` loads no plugin.
    """
    if _loader.discovered:
        return
    _loader.discovered = True  # set first, since plugins look names up during their import
    points = entry_points()
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


def entry_points() -> list[EntryPoint]:
    """Entry points of installed plugins, sorted by name.

    The folder in which Python was started ('' on its path) is left out: what lies there is not installed.
    """
    known: dict[str, list[EntryPoint]] = {}
    for distribution in distributions(path=[folder for folder in sys.path if folder]):
        points = [point for point in distribution.entry_points if point.group == GROUP]
        if points:  # an earlier folder of the path hides a later one, as for modules
            known.setdefault(_plain(distribution.metadata["Name"] or ""), points)
    return sorted((p for points in known.values() for p in points), key=lambda point: (point.name, point.value))


def load_required(name: str, *, trusted: bool = False, version: str = "") -> Plugin:
    """Import a plugin that a recipe lists: a distribution, an importable module, or the path of a .py file.

    Args:
        trusted: whether files and modules may be imported; entry points are installed, and always are.
        version: version that a model was made with, for the message about a missing plugin.

    Raises:
        UntrustedPluginError: it is a file or module that is not imported yet, and not trusted.
        PluginError: the plugin does not exist, or its import fails.
    """
    load_entry_points()
    points = [] if name.endswith(".py") else [point for point in entry_points() if _names(name, point)]
    if points:
        plugins = [_load_point(point) for point in points]
    elif not (trusted or plugins_are_trusted() or _is_imported(name)):
        raise _refusal(name, version)
    elif name.endswith(".py"):
        plugins = [_load_file(Path(name))]
    else:
        plugins = [_load_module(name)]
    for plugin in plugins:
        if plugin.error:
            raise PluginError(f"plugin '{name}' failed to load: {plugin.error}")
    return plugins[0]


def load_distributions(versions: Mapping[str, str]) -> None:
    """Import the plugins of installed distributions that a model needs. No name makes anything else run.

    Args:
        versions: versions that the model was made with, by name of the distribution.

    Raises:
        PluginError: some are not installed, or cannot be loaded; one sentence names all of them.
    """
    points, missing, failed = entry_points(), dict[str, str](), list[str]()
    for name, version in versions.items():
        own = [point for point in points if _plain(_origin(point)[0]) == _plain(name)]
        if not own:
            missing[name] = version
        failed += [f"'{name}': {plugin.error}" for plugin in map(_load_point, own) if plugin.error]
    if missing:
        pins = " ".join(f"'{_pinned(name, version)}'" for name, version in missing.items())
        raise PluginError(
            f"{', '.join(shown(f'{name} {version}'.strip()) for name, version in missing.items())}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; if you trust the authors: pip install {pins}"
        )
    if failed:
        raise PluginError(f"plugins that failed to load: {'; '.join(failed)}")


def untrusted(names: Sequence[str]) -> list[str]:
    """The plugins among these that are no entry points, so that a new process imports them only if it trusts them."""
    points = entry_points()
    return [name for name in names if name.endswith(".py") or not any(_names(name, point) for point in points)]


def _names(name: str, point: EntryPoint) -> bool:
    """Whether a recipe means this entry point: by its name, its distribution or its module."""
    return name == point.module or _plain(name) in (_plain(point.name), _plain(_origin(point)[0]))


def _is_imported(name: str) -> bool:
    """Whether the code of a file or module has run in this process already, so that importing it runs none."""
    if not name.endswith(".py"):
        return name in sys.modules
    plugin = _loader.plugins.get(_module_of(Path(name).resolve()))
    return plugin is not None and not plugin.error and plugin.module in sys.modules


def _refusal(name: str, version: str) -> PluginError:
    """The error for code that a recipe lists and that is not imported: what it is, and what to do."""
    trust = "--trust-plugins runs it (in Python: trust_plugins=True)"
    if name.endswith(".py"):
        if not Path(name).is_file():
            return _no_file(Path(name))
        text = f"the plugin file '{name}' is code, which runs only for a recipe that you train; read it, and {trust}"
        return UntrustedPluginError(text)
    if not _MODULE.fullmatch(name) and not _DISTRIBUTION.fullmatch(name):
        return _no_plugin(name)
    if near := did_you_mean(name, _known_names()):
        return UntrustedPluginError(f"no installed plugin '{shown(name)}'{near}")
    if not _DISTRIBUTION.fullmatch(name):
        return UntrustedPluginError(f"no installed plugin '{shown(name)}'; if it is a module of yours, {trust}")
    made = f" (the model has {version})" if _VERSION.fullmatch(version) else ""
    return UntrustedPluginError(
        f"no installed plugin '{shown(name)}'{made}; if you trust its authors: pip install '{_pinned(name, version)}'; "
        f"if it is a module of yours, {trust}"
    )


def _pinned(name: str, version: str) -> str:
    """What to install: a distribution with its version, if that can be one."""
    return f"{name}=={version}" if _VERSION.fullmatch(version) else name


def _no_file(path: Path) -> PluginError:
    return PluginError(f"no plugin file '{path}'")


def _no_plugin(name: str) -> PluginError:
    return PluginError(
        f"no plugin '{shown(name)}': neither an installed distribution with a `{GROUP}` entry point, nor an importable "
        f"module, nor a path that ends in .py{did_you_mean(name, _known_names())}"
    )


def _known_names() -> list[str]:
    """Names by which recipes may list the installed plugins."""
    return [text for point in entry_points() for text in (point.name, _origin(point)[0])]


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
    needs, unmet = needed_api(point.dist), unmet_api(point.dist)
    return _loader.load(Plugin(point.name, point.module, *_origin(point), error=unmet, needs=needs), point.load)


def _load_module(name: str) -> Plugin:
    top = _top(name)
    if not _MODULE.fullmatch(name) or not (top in sys.modules or importlib.util.find_spec(top)):
        raise _no_plugin(name)
    return _loader.load(Plugin(name, name, *distribution_of(top)), lambda: import_module(name))


def _load_file(path: Path) -> Plugin:
    path = path.resolve()
    if not path.is_file():
        raise _no_file(path)
    module = _module_of(path)
    return _loader.load(Plugin(str(path), module, path.name, ""), lambda: _import_file(path, module))


def _module_of(path: Path) -> str:
    """Module of a plugin file; the hash keeps the modules of two files of one name apart."""
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _import_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _file_of(module: str) -> str:
    """File of a module that is imported, or of the package that it would come from; "" if there is none."""
    try:
        loaded_module = sys.modules.get(module)
        spec = loaded_module.__spec__ if loaded_module else importlib.util.find_spec(_top(module))
    except (ImportError, ValueError, AttributeError):
        return ""
    return (spec and spec.origin) or ""


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

"""Deprecations: what is to go warns for one minor version, and is refused in the next.

Plugins state a range of minor versions of fewstep. Whoever updates one minor version at a time sees each warning before
the change.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import ParamSpec, TypeVar

from fewstep.core import version
from fewstep.core.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


class FewstepDeprecationWarning(FutureWarning):
    """A plugin uses what the next minor version lacks. Shown by default, as no `DeprecationWarning` is."""


class RemovedError(UserError):
    """A plugin uses what was deprecated in an earlier minor version."""


def deprecated(since: str, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of a function or method that warns when it is called, for the rest of the minor version `since`.

    Args:
        since: first minor version that warns ("0.2").
        instead: what to write instead ("call ctx.mean").

    Raises:
        RemovedError: it is called in a later minor version.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            warn(function.__qualname__, since, instead, depth=3)
            return function(*args, **kwargs)

        return wrapped

    return decorate


def moved_names(module: str, moved: Mapping[str, tuple[str, str]]) -> Callable[[str], object]:
    """The `__getattr__` of a module, for names that are now elsewhere: `__getattr__ = moved_names(__name__, {...})`.

    Args:
        module: name of the module.
        moved: for each old name the first minor version that warns, and the new name with its module.

    Raises:
        RemovedError: an old name is read in a later minor version.
    """

    def read(name: str) -> object:
        if name not in moved:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        since, target = moved[name]
        warn(f"{module}.{name}", since, f"use {target}", depth=3)
        home, _, new = target.rpartition(".")
        return getattr(import_module(home), new)

    return read


def warn(name: str, since: str, instead: str, *, depth: int = 2) -> None:
    """Warn about one use of a deprecated name; the warning names the line that uses it.

    Args:
        depth: frames between this function and that line, 2 for the caller of the caller.

    Raises:
        RemovedError: `since` is an earlier minor version than this one.
    """
    if is_overdue(since):
        frame = sys._getframe(depth - 1)
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        raise RemovedError(f"{name} was removed after fewstep {since}; {instead} ({place})")
    text = f"{name} is deprecated since fewstep {since} and goes with the next minor version; {instead}"
    warnings.warn(text, FewstepDeprecationWarning, stacklevel=depth)


def is_overdue(since: str) -> bool:
    """Whether this fewstep is of a later minor version."""
    return _minor(version.__version__) > _minor(since)


def _minor(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int(minor)

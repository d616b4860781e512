"""Deprecations warn for one minor version, name the line that uses them, and are refused after it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from fewstep.core import version
from fewstep.core.deprecation import (
    FewstepDeprecationWarning,
    RemovedError,
    deprecated,
    is_overdue,
    moved_names,
)
from fewstep.core.errors import exit_code

PACKAGE = Path(version.__file__).parents[1]


class Thing:
    @deprecated("0.4", "call new")
    def old(self, x: int, *, y: int = 2) -> int:
        """Adds."""
        return x + y


@pytest.fixture(params=["0.4.0", "0.4.7"])
def in_the_minor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "__version__", request.param)


@pytest.mark.usefixtures("in_the_minor")
def test_it_warns_where_it_is_called_and_works() -> None:
    with pytest.warns(FewstepDeprecationWarning, match=r"Thing\.old is deprecated since fewstep 0\.4.*; call new") as w:
        assert Thing().old(1, y=4) == 5
    assert w[0].filename == __file__
    assert Thing.old.__doc__ == "Adds."


@pytest.mark.usefixtures("in_the_minor")
def test_it_is_shown_by_default() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("default", FutureWarning)
        Thing().old(1)
    assert [issubclass(w.category, DeprecationWarning) for w in caught] == [False]


@pytest.mark.parametrize("later", ["0.5.0", "0.10.0", "1.0.0"])
def test_the_next_minor_version_refuses_with_the_line(later: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "__version__", later)
    with pytest.raises(RemovedError, match=rf"removed after fewstep 0\.4; call new \({re.escape(__file__)}:\d+") as e:
        Thing().old(1)
    assert exit_code(e.value) == 2


@pytest.mark.usefixtures("in_the_minor")
def test_a_moved_name_is_found_in_its_new_place() -> None:
    module = ModuleType("old_home")
    module.__getattr__ = moved_names("old_home", {"join": ("0.4", "os.path.join")})  # type: ignore[method-assign]
    with pytest.warns(FewstepDeprecationWarning, match=r"old_home\.join is deprecated.*; use os\.path\.join") as w:
        assert module.join("a", "b") == str(Path("a/b"))
    assert w[0].filename == __file__
    with pytest.raises(AttributeError, match="module 'old_home' has no attribute 'nothing'"):
        _ = module.nothing


def test_nothing_of_the_package_is_overdue() -> None:
    """What warned for its minor version is deleted before the next one is released."""
    uses = [
        (path.relative_to(PACKAGE), since)
        for path in PACKAGE.rglob("*.py")
        for since in re.findall(r"@deprecated\(\s*\"([\d.]+)\"", path.read_text(encoding="utf-8"))
    ]
    assert [use for use in uses if is_overdue(use[1])] == []

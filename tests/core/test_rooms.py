"""The floor plan: no import runs upwards or in a circle, and every room says what lies in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import rooms

FOLDERS = sorted(path.parent for path in rooms.PACKAGE.rglob("__init__.py"))
TESTS = Path(__file__).resolve().parents[1]
REGISTERS = re.compile(r"^\s*@[A-Z_]+\.register\(", re.MULTILINE)


def test_imports_run_down() -> None:
    assert rooms.back_arrows() == []
    assert rooms.circles() == []


def test_the_house_stays_small() -> None:
    assert set(rooms.rooms()) == set(rooms.ORDER)
    assert len(rooms.rooms()) <= 32
    assert max(rooms.floors().values()) + 1 <= 15
    assert len(rooms.loose_files()) == 3


def test_the_order_can_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail: turned around, the same imports run upwards."""
    monkeypatch.setattr(rooms, "ORDER", tuple(reversed(rooms.ORDER)))
    assert "fewstep.processes.base -> fewstep.schedules.base" in rooms.back_arrows()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(rooms.ROOT).as_posix())
def test_a_room_says_which_files_are_components(folder: Path) -> None:
    """Components need no list, so that one more is one file; the parts that they share are named."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert text, "no docstring"
    files = {path.stem: path.read_text() for path in folder.glob("*.py") if path.name != "__init__.py"}
    shared = {name for name, code in files.items() if not REGISTERS.search(code)}
    if not files:
        assert "subfolders" in text
    elif shared == set(files):
        assert "No file is a component" in text
    else:
        (line,) = re.findall(r"Every file is a component(?:, but for the shared parts: ([^.]*))?\.", text)
        assert set(re.findall(r"`(\w+)`", line)) == shared


def test_every_folder_with_code_is_a_package() -> None:
    assert {path.parent for path in rooms.PACKAGE.rglob("*.py")} <= set(FOLDERS)


def test_tests_lie_in_the_room_of_what_they_test() -> None:
    """Folders beside them are about all rooms: the plugin kit over the registries, the pages, the wheel, strangers."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    extra = {"conformance", "docs", "fuzz", "packaging", "security"}
    assert {folder.as_posix() for folder in folders} - set(rooms.ORDER) == extra

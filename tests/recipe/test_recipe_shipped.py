"""Recipes and suites that come with fewstep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.core.errors import UserError
from fewstep.core.kinds import registry
from fewstep.recipe import load_recipe, shipped


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a few recipes."""
    files = {
        "pyproject.toml": "",
        "recipes/_base/digits.yaml": "",
        "recipes/digits/digits-dmmd.yaml": "# yaml-language-server: $schema=x\n#\n# D-MMD on digits.\n# More.\n",
        "recipes/digits/_parts/data.yaml": "",
        "recipes/text/text-teacher.yaml": "name: y\n# not an opening comment\n",
        "benchmarks/suites/quick.yaml": "# A quick one.\n",
        "framework/fewstep/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(shipped, "PACKAGE", (tmp_path / "framework/fewstep").resolve())
    return tmp_path.resolve()


def test_a_checkout(tree: Path) -> None:
    assert shipped.shipped_recipes() == {
        "digits-dmmd": tree / "recipes/digits/digits-dmmd.yaml",
        "text-teacher": tree / "recipes/text/text-teacher.yaml",
    }
    assert list(shipped.shipped_bases()) == ["_base/digits", "digits/_parts/data"]
    assert list(shipped.shipped_suites()) == ["quick"]


def test_an_installed_wheel_comes_first(tree: Path) -> None:
    inside = tree / "framework/fewstep/shipped/recipes/digits/inside.yaml"
    inside.parent.mkdir(parents=True)
    inside.write_text("name: x\n")
    assert shipped.shipped_recipes() == {"inside": inside}


def test_neither_wheel_nor_checkout(tree: Path) -> None:
    (tree / "pyproject.toml").unlink()
    assert shipped.shipped_recipes() == {}
    assert shipped.shipped_suites() == {}


def test_find(tree: Path) -> None:
    assert shipped.find_shipped("recipe", "text-teacher").name == "text-teacher.yaml"
    assert shipped.find_shipped("base", "_base/digits").name == "digits.yaml"
    assert shipped.find_shipped("suite", "quick").name == "quick.yaml"
    with pytest.raises(UserError, match="no shipped recipe named 'digits-dmd'; did you mean 'digits-dmmd'"):
        shipped.find_shipped("recipe", "digits-dmd")
    with pytest.raises(UserError, match="no shipped recipe named '_base/digits'"):
        shipped.find_shipped("recipe", "_base/digits")
    with pytest.raises(UserError, match="no shipped suite named 'zzz'; `fewstep list suites` shows them"):
        shipped.find_shipped("suite", "zzz")


def test_summary(tree: Path) -> None:
    found = shipped.shipped_recipes()
    assert shipped.summary(found["digits-dmmd"]) == "D-MMD on digits."
    assert shipped.summary(found["text-teacher"]) == ""


def test_importing_it_loads_no_torch() -> None:
    code = "import sys; from fewstep.recipe import shipped; shipped.shipped_recipes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_shipped_recipe_is_valid() -> None:
    folder = shipped.shipped_folder("recipes")
    assert folder is not None
    files = [path for path in folder.rglob("*.yaml") if not any(part.startswith("_") for part in path.parts)]
    assert len(files) > 0
    assert sorted(files) == sorted(shipped.shipped_recipes().values()), "two recipes share a name"
    for path in files:
        recipe = load_recipe(path).recipe
        distils = "teacher" in registry("objectives").get(recipe.objective.type).cls.roles
        assert recipe.name == path.stem
        assert (recipe.teacher is not None) == distils
        assert shipped.summary(path), f"{path} has no opening comment"

"""What a new component costs: one file, and no edit of any other.

`one_file` holds one of each kind. Each is used twice: as a plugin that lies beside a recipe, and as a file in the
folder of its kind, in a copy of the package. Taken away, it leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rooms
import yaml

import fewstep.testing
from fewstep.core import plugins
from fewstep.core.errors import RecipeError
from fewstep.core.kinds import KINDS, registry
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit

FILES = Path(__file__).with_name("one_file")


@dataclass(frozen=True)
class Addition:
    """A component of `one_file`: its kind and name, and the keys of a recipe that use it."""

    kind: str
    name: str
    keys: dict[str, Any]

    @property
    def file(self) -> Path:
        return FILES / f"{self.kind.removesuffix('s')}.py"

    def check(self) -> None:
        """The conformance check of its kind, which the built-in components pass."""
        getattr(fewstep.testing, f"check_{self.file.stem}")(self.name)

    def recipe(self, **more: Any) -> str:
        """YAML of a recipe of a few steps that uses it."""
        base = {"extends": "smoke-teacher", "name": "mine", "train": {"steps": 3}, "evaluate": {"samples": 8}}
        return yaml.safe_dump({**base, **more, **self.keys})


ADDITIONS = (
    Addition("objectives", "noisy_half", {"objective": "noisy_half"}),
    Addition("samplers", "leap_home", {"sampler": {"type": "leap_home", "home": 0.3}}),
    Addition("schedules", "parabola", {"process": {"type": "masked", "schedule": "parabola"}}),
    Addition("datasets", "stairs", {"data": "stairs", "evaluate": {"samples": 8, "metrics": ["sample_entropy"]}}),
    Addition("metrics", "palindromes", {"evaluate": {"samples": 8, "metrics": ["palindromes"]}}),
    Addition("backbones", "mixer", {"backbone": "mixer"}),
)
each = pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.kind)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in; registries, plugins and imports are as before afterwards, as in a process of its own."""
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(registry(kind).snapshot())
        monkeypatch.setattr(plugins._loader, "plugins", dict(plugins._loader.plugins))
        yield tmp_path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@each
def test_a_file_beside_a_recipe_is_enough(addition: Addition, place: Path) -> None:
    before = registry(addition.kind).names()
    shutil.copy(addition.file, "mine.py")
    Path("recipe.yaml").write_text(addition.recipe(plugins=["./mine.py"]))
    run = RunDir(place / "run")
    fit(load_recipe("recipe.yaml", trust_plugins=True), run, echo=lambda line: None)
    rows = evaluate_run(str(run.path), steps=[2])
    assert rows[0]["metrics"]
    addition.check()
    assert set(registry(addition.kind).names()) - set(before) == {addition.name}


@each
def test_without_its_file_it_is_unknown(addition: Addition, place: Path) -> None:
    """And a recipe that still lists the file says so."""
    assert addition.name not in registry(addition.kind).names()
    Path("recipe.yaml").write_text(addition.recipe())
    with pytest.raises(RecipeError, match=f"'{addition.name}'"):
        load_recipe("recipe.yaml", trust_plugins=True)
    Path("listed.yaml").write_text(addition.recipe(plugins=["./mine.py"]))
    with pytest.raises(RecipeError, match=r"no plugin file '.*mine\.py'"):
        load_recipe("listed.yaml", trust_plugins=True)


# ------------------------------------------------------------- in the package

USE = """
import json
from pathlib import Path
from fewstep.core.kinds import KINDS, registry
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit
if Path("recipe.yaml").exists():
    fit(load_recipe("recipe.yaml", trust_plugins=True), RunDir(Path("run")), echo=lambda line: None)
    assert "palindromes" in evaluate_run("run", steps=[2])[0]["metrics"]
print(json.dumps({kind: registry(kind).names() for kind in KINDS}))
"""
"""Trains and evaluates the recipe, if there is one, and prints the names that registries find by themselves."""


def names_in(copy: Path) -> dict[str, list[str]]:
    """What a copy of the package registers, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "framework"), "FEWSTEP_PLUGINS": "none"}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.medium
def test_a_file_in_the_folder_of_its_kind_is_enough(tmp_path: Path) -> None:
    """All six at once, used by one recipe; and the package without them is what it was."""
    for name in ("framework", "recipes"):
        shutil.copytree(rooms.ROOT.parent / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(rooms.ROOT.parent / "pyproject.toml", tmp_path)
    folders = {"datasets": "data"}
    files = []
    for addition in ADDITIONS:
        folder = tmp_path / "framework/fewstep" / folders.get(addition.kind, addition.kind)
        files.append(Path(shutil.copy(addition.file, folder / f"{addition.name}.py")))
    keys = {key: value for addition in ADDITIONS for key, value in addition.keys.items()}
    (tmp_path / "recipe.yaml").write_text(ADDITIONS[0].recipe(**keys))
    more = names_in(tmp_path)
    for file in (*files, tmp_path / "recipe.yaml"):
        file.unlink()
    less = names_in(tmp_path)
    added = {kind: set(more[kind]) - set(less[kind]) for kind in KINDS}
    assert added == {**{kind: set() for kind in KINDS}, **{addition.kind: {addition.name} for addition in ADDITIONS}}
    assert less == {kind: built_in(kind) for kind in KINDS}


def built_in(kind: str) -> list[str]:
    """Names of fewstep's own components, in the order of the registry."""
    entries = registry(kind).entries()
    return [entry.name for entry in entries if entry.distribution[0] == "fewstep"]

"""The fixture `train`: a shipped recipe, trained in a second or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit

Train = Callable[..., RunDir]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """`train(recipe, name, *sets)` trains a shipped recipe in `tmp_path/name`, quietly."""

    def run(recipe: str, name: str, *sets: str, teacher: RunDir | None = None) -> RunDir:
        loaded = load_recipe(recipe, sets, teacher=str(teacher.path) if teacher else None)
        folder = RunDir(tmp_path / name)
        fit(loaded, folder, echo=lambda line: None)
        return folder

    return run

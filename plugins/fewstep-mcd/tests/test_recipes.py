"""The recipes are valid, train, and differ in what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = ("train.steps=5", "train.log_every=1", "train.device=cpu", "watch.times=0", "data.size=256")


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path) -> None:
    assert load_recipe(recipe).recipe.name == recipe.stem


def test_the_reverse_recipe_sharpens_its_teacher() -> None:
    config = load_recipe(RECIPES / "mcd-markov-reverse.yaml").recipe.objective
    assert [config.temperature(number) for number in (0, config.rounds - 1)] == [0.96, 0.75]


def test_recipes_train(tmp_path: Path) -> None:
    """A teacher and both students, a step for each round."""
    teacher = RunDir.create("teacher", tmp_path / "teacher")
    fit(load_recipe(RECIPES / "mcd-markov-teacher.yaml", SMALL), teacher, echo=lambda line: None)
    for name in ("mcd-markov", "mcd-markov-reverse"):
        run = RunDir.create(name, tmp_path / name)
        loaded = load_recipe(RECIPES / f"{name}.yaml", SMALL, teacher=str(teacher.path))
        assert fit(loaded, run, echo=lambda line: None) is not None
        assert '"step": 5' in run.metrics.read_text()

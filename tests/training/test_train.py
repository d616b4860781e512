"""`fewstep.train`, `distill` and `benchmark`: the commands as functions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

import fewstep
from fewstep.core.errors import RecipeError, UserError
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import load_recipe

SHORT = {"train.steps": 3, "train.batch_size": 8, "train.log_every": 2, "train.device": "cpu", "watch.times": 1}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_teacher_and_its_student(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = fewstep.train("smoke-teacher", changes=SHORT, run_dir=Path("teacher"))
    assert teacher.status["state"] == "finished"
    printed = capsys.readouterr().out
    assert "step 3/3" in printed
    student = fewstep.distill("smoke-dmmd", teacher, changes=SHORT, quiet=True)
    assert capsys.readouterr().out == ""
    assert fewstep.Pipeline.from_pretrained(student).sample(2, steps=1).nfe == 1
    same = fewstep.train("smoke-teacher", changes={**SHORT, "train.steps": 4}, resume=teacher, quiet=True)
    assert same.path == teacher.path
    assert same.status["step"] == 4


def test_a_recipe_is_plain_data_too() -> None:
    class Mine(type(OBJECTIVES.build("denoising"))):  # type: ignore[misc]
        class Config(OBJECTIVES.get("denoising").cls.Config):  # type: ignore[name-defined,misc]
            type: Literal["mine"] = "mine"

    recipe = {"extends": "smoke-teacher", "name": "own", "objective": "mine", "train": {"steps": 2, "device": "cpu"}}
    with OBJECTIVES.snapshot():
        OBJECTIVES.register("mine")(Mine)
        run = fewstep.train(recipe, quiet=True)
        assert run.path.parent == Path("runs/own")
        assert fewstep.Pipeline.from_pretrained(run).model.recipe.objective.type == "mine"
        assert load_recipe(run.recipe).recipe == load_recipe(recipe).recipe, (
            "the run holds the recipe as it was written"
        )


def test_messages_name_keywords() -> None:
    with pytest.raises(UserError, match=r"name one with teacher=RUN, or use `fewstep\.train`"):
        fewstep.distill("smoke-teacher")
    with pytest.raises(RecipeError, match=r"^changes:1: train\.stepz: unknown key 'stepz'; did you mean 'steps'"):
        fewstep.train("smoke-teacher", changes={"train.stepz": 3})
    with pytest.raises(RecipeError, match=r"^recipe: objective(\.type)?: no objective named 'mien'"):
        fewstep.train({"extends": "smoke-teacher", "objective": "mien"})
    with pytest.raises(UserError, match="jobs and cluster exclude each other"):
        fewstep.benchmark("exact", jobs=2, cluster="tcp://127.0.0.1:1")
    assert not Path("runs").exists()

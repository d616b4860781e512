"""Cases of a suite that sample, or learn from, models that exist: runs and exports by their paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.bench.report.tables import commands, markdown
from fewstep.bench.results.results import Results
from fewstep.bench.running.runner import run_suite
from fewstep.core.errors import RecipeError
from fewstep.export.write import export_run
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit

Write = Callable[..., str]


@pytest.fixture
def teacher(write_suite: Write, tmp_path: Path) -> RunDir:
    write_suite()
    run = RunDir(tmp_path / "trained")
    fit(load_recipe(tmp_path / "teacher.yaml"), run, echo=lambda line: None)
    return run


@pytest.mark.parametrize("train_seeds", [None, [0, 1]])
def test_a_run_and_its_export_are_cases(
    write_suite: Write, teacher: RunDir, tmp_path: Path, train_seeds: list[int] | None
) -> None:
    few = export_run(str(teacher.path), str(tmp_path / "few"))
    cases = [
        {"name": "teacher", "model": str(teacher.path), "steps": [2]},
        {"name": "few", "model": str(few), "steps": [2]},
        {"name": "sharp", "model": "teacher", "sampler": {"type": "ancestral", "temperature": 0.5}, "steps": [2]},
        {"name": "student", "recipe": "./student.yaml", "teacher": "teacher", "steps": [1]},
    ]
    suite = write_suite(cases=cases, claims=None, quick=None, seeds=[0], samples=20, train_seeds=train_seeds)
    folder = run_suite(suite, str(tmp_path / "out"))
    results = Results.load(folder / "results.json")
    values = {summary.case: summary.values for summary in results.summary}
    assert values["teacher"] == values["few"] != values["sharp"]
    case = results.case("teacher")
    assert case is not None
    assert (case.model, case.recipe, case.train_steps) == (str(teacher.path), "tiny-teacher", 20)
    student = next(line for line in commands(results) if "distill" in line)
    assert student.startswith(f"fewstep distill ./student.yaml --teacher {teacher.path}")
    assert f"| teacher | {teacher.path} |" in markdown(results)
    assert (folder / "report.html").exists()
    assert sorted(path.name.split("-")[0] for path in (folder / "runs").iterdir()) == ["student"] * len(
        train_seeds or [0]
    )


def test_models_that_are_not_there_or_of_other_data_are_named(
    write_suite: Write, teacher: RunDir, tmp_path: Path
) -> None:
    def complaint(model: str, *more: dict[str, object]) -> str:
        cases = [*more, {"name": "here", "model": model, "steps": [2]}]
        suite = write_suite(cases=cases, claims=None, quick=None)
        with pytest.raises(RecipeError) as caught:
            run_suite(suite, str(tmp_path / "out"))
        (problem,) = caught.value.problems
        return f"{problem.key}: {problem.message}"

    assert complaint(f"{tmp_path}/none").startswith(f"cases[0].model: '{tmp_path}/none' is not a run folder")
    assert complaint("few") == (
        "cases[0].model: no case named 'few'; known: none; a run or an export is named by its path, such as ./few"
    )
    other: dict[str, object] = {"name": "other", "recipe": "./teacher.yaml", "set": ["data.order=2"], "steps": [2]}
    assert complaint(str(teacher.path), other).startswith("cases[1].model: its data differ from those of case 'other'")

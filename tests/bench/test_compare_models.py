"""Models side by side: what differs, curves, values, samples; and refusals before anything is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.bench.report.leaderboard import merge
from fewstep.bench.report.recipe_diff import recipes_grid
from fewstep.bench.report.side_by_side import area_grid, console_lines
from fewstep.bench.report.training_plot import quantities
from fewstep.bench.results.results import Results
from fewstep.bench.running.comparison import compare_models
from fewstep.core.errors import FewstepError, UserError
from fewstep.evaluation import evaluate as module
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.evaluation.request import EvaluationRequest
from fewstep.export.write import export_run
from fewstep.runs.folder import RunDir
from fewstep.runs.models import ModelSource

Train = Callable[..., RunDir]
ASKED = EvaluationRequest(samples=20)


def test_teacher_and_student_on_one_page(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher", "evaluate.steps=[2,4,8]")
    student = train("smoke-dmmd", "student", "optim.lr=1e-3", teacher=teacher)
    evaluate_run(str(teacher.path), [2, 4, 8], 20, seed=1, metrics="ngram_distance,exact_nll,sample_entropy")
    names = [str(teacher.path), str(student.path)]
    results, page = compare_models(names, ASKED, out=str(tmp_path / "side"), command="fewstep compare <a> b")
    assert Results.load(tmp_path / "side" / "results.json") == results
    assert (results.headline, results.diversity, results.suite.seeds) == ("ngram_tv", "sample_entropy", (0, 1))
    assert [(s.case, s.nfe, s.values["ngram_tv"].n) for s in results.summary] == [
        ("smoke-teacher", 2, 2),
        ("smoke-teacher", 4, 2),
        ("smoke-teacher", 8, 2),
        ("smoke-dmmd", 2, 1),
        ("smoke-dmmd", 4, 1),
    ]
    text = page.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Quality by evaluations",
        "Values",
        "Quality by diversity",
        "Samples",
        "Recipes: what differs",
        "Trainings",
        "How to repeat this",
    ]
    assert text.count("data:image/png;base64,") == 3
    assert text.count("<pre>") == 6  # sheets of text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert captions[0] == "real samples"
    assert [caption.split(",")[0] for caption in captions[1:3]] == ["smoke-teacher", "smoke-dmmd"]
    assert "smoke-dmmd: not measured at 8 steps" in text
    assert "fewstep compare &lt;a&gt; b" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    area = area_grid(results)
    assert area is not None
    assert area.header[1] == "ngram_tv, mean over NFE 2 to 4 ↓"
    lines = console_lines(results)
    assert any(line.startswith("recipes differ in ") and "objective.type" in line for line in lines)
    assert (tmp_path / "side" / "comparison.md").read_text().count("\n| objective.type | denoising | dmmd |") == 1


def test_runs_of_one_recipe_are_told_apart_and_exports_take_part(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = train("smoke-teacher", "first"), train("smoke-teacher", "second", "optim.lr=1e-4")
    few = export_run(str(second.path), str(tmp_path / "few"))
    monkeypatch.chdir(tmp_path)
    request = EvaluationRequest(steps=(2,), samples=20, metrics="ngram_distance")
    results, page = compare_models(["first", str(few)], request)
    assert page == Path("results/compare-smoke-teacher-smoke-teacher/comparison.html")
    assert [case.name for case in results.cases] == ["smoke-teacher (first)", "smoke-teacher (few)"]
    assert results.diversity is None
    assert area_grid(results) is None
    monkeypatch.setattr(module, "draw", None)
    again, _ = compare_models(["first", str(few)], request)  # nothing is drawn
    assert again.rows == results.rows
    assert page.read_text().count("<figcaption>real samples</figcaption>") == 1  # of the data, which are here

    def gone(source: ModelSource) -> None:
        raise UserError("the data are not here")

    monkeypatch.setattr(ModelSource, "training_data", gone)
    _, page = compare_models(["first", str(few)], request)
    assert "real samples" not in page.read_text()
    assert first.path.is_dir()


def test_recipes_differ_in_these_keys() -> None:
    a: dict[str, object] = {"name": "a", "optim": {"lr": 0.1, "betas": [0.9]}, "teacher": None}
    b: dict[str, object] = {"name": "b", "optim": {"lr": 0.2, "betas": [0.9]}, "teacher": {"run": "runs/t"}}
    grid = recipes_grid({"a": a, "b": b, "c": a})
    assert grid.header == ["key", "a", "b", "c"]
    assert grid.rows == [["optim.lr", "0.1", "0.2", "0.1"], ["teacher.run", "–", "runs/t", "–"]]


def test_panels_of_curves() -> None:
    teacher = [{"step": 1, "train/loss": 1.0, "student/grad_norm": 1.0, "student/lr": 1.0, "seconds": 1.0}]
    student = [{"step": 1, "student/loss": 1.0, "student/grad_norm": 1.0, "watch/diversity": 1.0}]
    logs = {"teacher": teacher, "student": student}
    assert quantities(logs) == ["train/loss", "student/loss", "watch/diversity", "student/grad_norm"]


@pytest.mark.parametrize(
    ("request_", "value", "message"),
    [
        (ASKED, "ngram_t", r"--value: no value of samples .* named 'ngram_t'; did you mean 'ngram_tv'\?"),
        (
            EvaluationRequest(metrics="exact_nll"),
            None,
            "neither high nor low is better .* add one that judges samples",
        ),
    ],
)
def test_values_that_do_not_compare_are_refused_before_any_sampling(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request_: EvaluationRequest,
    value: str | None,
    message: str,
) -> None:
    names = [str(train("smoke-teacher", name, "train.steps=1").path) for name in ("first", "second")]
    monkeypatch.setattr(module, "draw", None)
    with pytest.raises(FewstepError, match=message):
        compare_models(names, request_, out=str(tmp_path / "side"), value=value)
    with pytest.raises(FewstepError, match="compare needs two different models or more"):
        compare_models(names[:1] * 2, ASKED)
    assert not (tmp_path / "side").exists()


def test_models_of_other_data_do_not_compare(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train("smoke-teacher", "first", "train.steps=1")
    other = train("smoke-teacher", "other", "train.steps=1", "data.source_seed=5")
    monkeypatch.setattr(module, "draw", None)
    with pytest.raises(FewstepError, match="these models are of different data, whose values do not compare"):
        compare_models([str(first.path), str(other.path)], ASKED, out=str(tmp_path / "side"))
    assert not (tmp_path / "side").exists()


def test_a_leaderboard_ranks_kept_evaluations_beside_results(train: Train, tmp_path: Path) -> None:
    first, second = (str(train("smoke-teacher", name, f"seed={seed}").path) for seed, name in enumerate(("a", "b")))
    with pytest.raises(UserError, match="has no evaluation of its weights; measure one with `fewstep evaluate"):
        merge([first])
    evaluate_run(first, [1, 4], 20)
    evaluate_run(first, [4], 20, sampler="{type: ancestral, temperature: 0.5}")
    evaluate_run(first, [4], 30)
    evaluate_run(second, [4], 20)
    compare_models([first, second], EvaluationRequest((4,), 20), out=str(tmp_path / "side"))
    board = merge([first, second, tmp_path / "side"])
    assert board.value == "ngram_tv"
    ranked = [entry.summary.values["ngram_tv"].mean for entry in board.entries]
    assert ranked == sorted(ranked)
    assert sorted(entry.model for entry in board.entries) == [
        "smoke-teacher",
        "smoke-teacher",
        "smoke-teacher",
        "smoke-teacher (a)",
        "smoke-teacher (b)",
        "smoke-teacher, ancestral, temperature 0.5",
    ]
    assert {entry.results.suite.samples for entry in board.entries} == {20}
    assert {entry.results.suite.samples for entry in merge([first]).entries} == {30}


def test_a_leaderboard_ranks_shipped_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits-teacher", "digits-dmmd"):
        evaluate_run(name, [4], 20, metrics="nearest_neighbour,distinct_ngrams")
    board = merge(["digits-teacher", "fewstep/digits-dmmd"])
    assert {entry.results.suite.title for entry in board.entries} == {"digits-teacher", "digits-dmmd"}

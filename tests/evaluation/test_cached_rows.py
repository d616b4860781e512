"""Rows are reused by what their values depend on, and mistakes are said before anything is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.core.errors import FewstepError, OperationError, RecipeError, UserError
from fewstep.evaluation import evaluate as module
from fewstep.evaluation.evaluate import evaluate_models, evaluate_run
from fewstep.evaluation.request import EvaluationRequest
from fewstep.export.write import export_run
from fewstep.runs.folder import RunDir
from fewstep.runs.local import is_local

Train = Callable[..., RunDir]
ASKED = EvaluationRequest(steps=(1, 3), samples=20)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of steps of every draw."""
    counts: list[int] = []
    real = module.draw

    def counted(*args: object, steps: int, **kwargs: object) -> object:
        counts.append(steps)
        return real(*args, steps=steps, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "draw", counted)
    return counts


def test_rows_are_drawn_once_and_again_for_whatever_changes_them(train: Train, drawn: list[int]) -> None:
    run = train("smoke-teacher", "run")
    name = str(run.path)
    (first,) = evaluate_models([name], ASKED)
    assert drawn == [1, 3]
    (second,) = evaluate_models([name], replace(ASKED, batch_size=7))
    assert drawn == [1, 3]
    assert second.rows == first.rows
    changed = [{"seed": 1}, {"samples": 21}, {"weights": "raw"}, {"sampler": "{type: ancestral, temperature: 0.5}"}]
    for number, change in enumerate(changed, start=1):
        evaluate_models([name], replace(ASKED, steps=(3,), **change))  # type: ignore[arg-type]
        assert drawn == [1, 3] + [3] * number
    stored = json.loads((run.evaluate / "step-00000020.json").read_text())
    assert len(stored) == 6
    assert all((run.evaluate / row["sheet"]).exists() for row in stored)


def test_other_weights_are_measured_anew(train: Train, drawn: list[int]) -> None:
    run = train("smoke-teacher", "run")
    (row,) = evaluate_run(str(run.path), steps=[2], samples=20)
    other = train("smoke-teacher", "other", "seed=1")
    other.evaluate.mkdir(parents=True)
    (other.evaluate / "step-00000020.json").write_bytes((run.evaluate / "step-00000020.json").read_bytes())
    (again,) = evaluate_run(str(other.path), steps=[2], samples=20)
    assert drawn == [2, 2]
    assert again["metrics"] != row["metrics"]


def test_metrics_are_cached_one_by_one(train: Train, drawn: list[int]) -> None:
    name = str(train("smoke-teacher", "run", "evaluate.metrics=[]").path)
    (row,) = evaluate_run(name, [2], 20, metrics="ngram_distance")
    assert set(row["metrics"]) == {"ngram_tv", "ngram_tv_floor"}
    (more,) = evaluate_run(name, [2], 20, metrics="sample_entropy,ngram_distance")
    assert list(more["metrics"]) == ["sample_entropy", "entropy_data", "ngram_tv", "ngram_tv_floor"]
    assert more["metrics"].items() >= row["metrics"].items()
    assert drawn == [2, 2]
    (both,) = evaluate_run(name, [2], 20, metrics="ngram_distance, sample_entropy")
    assert (drawn, both["metrics"]) == ([2, 2], more["metrics"])
    (other,) = evaluate_run(name, [2], 20, metrics="[{type: ngram_distance, order: 2}]")
    assert drawn == [2, 2, 2]
    assert other["metrics"]["ngram_tv"] != row["metrics"]["ngram_tv"]


def test_a_metric_of_the_model_needs_no_further_samples(train: Train, drawn: list[int]) -> None:
    name = str(train("smoke-teacher", "run").path)
    evaluate_run(name, [2], 20, metrics="exact_nll")
    (row,) = evaluate_run(name, [2], 20, metrics="exact_nll,likelihood_bound")
    assert drawn == [2]
    assert {"exact_nll", "bound_bits"} <= row["metrics"].keys()


def test_a_run_its_export_and_its_file_have_the_same_values(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "run")
    folder = export_run(str(run.path), str(tmp_path / "few"))
    names = [str(run.path), str(folder), str(run.export)]
    evaluations = evaluate_models(names, replace(ASKED, steps=(2,)))
    rows = [evaluation.rows[0] for evaluation in evaluations]
    assert [evaluation.target.name for evaluation in evaluations] == names
    assert rows[0].public() == rows[1].public() == rows[2].public()
    assert len({row.model for row in rows}) == 1
    assert (tmp_path / "few-made" / "evaluate").is_dir()


def test_rows_of_earlier_versions_are_kept_and_measured_anew(train: Train, drawn: list[int]) -> None:
    run = train("smoke-teacher", "run")
    file = run.evaluate / "step-00000020.json"
    file.parent.mkdir()
    file.write_text('[{"steps": 9, "nfe": 9, "seed": 0, "samples": 20, "metrics": {"ngram_tv": NaN}}]')
    evaluate_run(str(run.path), [9], 20)
    assert drawn == [9]
    assert [row["steps"] for row in json.loads(file.read_text())] == [9, 9]
    file.write_text('[{"steps": 9}]')
    with pytest.raises(OperationError, match=r"step-00000020\.json' is damaged; delete it to evaluate anew"):
        evaluate_run(str(run.path), [9], 20)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"metrics": "ngram_distanc"},
            RecipeError,
            "--metrics:1: .*no metric named 'ngram_distanc'; did you mean",
        ),
        ({"metrics": "sample_entropy, fid"}, RecipeError, r"--metrics:1: evaluate.metrics\[1\].*it needs images"),
        ({"metrics": "[{type: ngram_distance, oder: 2}]"}, RecipeError, "unknown key 'oder'; did you mean 'order'"),
        ({"metrics": ","}, RecipeError, "--metrics"),
        ({"metrics": ""}, RecipeError, "expected names of metrics, such as a,b; `fewstep list metrics`"),
        ({"device": "cuda"}, UserError, "--device: is cuda, but torch finds no GPU here"),
        ({"sampler": "ancestrl"}, RecipeError, "no sampler named 'ancestrl'"),
    ],
)
def test_mistakes_are_said_before_any_sampling(
    train: Train, drawn: list[int], monkeypatch: pytest.MonkeyPatch, change: dict, kind: type, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name = str(train("smoke-teacher", "run", "train.steps=1").path)
    with pytest.raises(kind, match=message) as caught:
        evaluate_models([name], replace(ASKED, **change))
    assert len(str(caught.value).splitlines()) == 1
    assert drawn == []


def test_an_absent_model_or_one_without_data_stops_all(train: Train, drawn: list[int], tmp_path: Path) -> None:
    name = str(train("smoke-teacher", "run", "train.steps=1").path)
    for absent, message in (
        (tmp_path / "none", "is not a run folder"),
        ("no way", "no folder or file here, and no O"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_models([name, absent], ASKED)
    (tmp_path / "text.txt").write_text("a line of text\n" * 40)
    sets = (
        "data.type=text",
        f"data.path={tmp_path / 'text.txt'}",
        "data.length=8",
        "evaluate.metrics=[sample_entropy]",
    )
    text = train("smoke-teacher", "text", "train.steps=1", *sets)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(FewstepError, match=r"cannot read '.*text\.txt'"):
        evaluate_models([name, str(text.path)], ASKED)
    assert drawn == []


def test_names_of_the_hub_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    assert [is_local(name) for name in ("owner/name", "out/none", "runs/none", "a.safetensors", "x/latest")] == [
        False,
        True,
        True,
        True,
        True,
    ]

"""Sampling and scoring of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fewstep.core.errors import RecipeError, UserError
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.recipe import parse_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.runtime.progress import Narrator
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest

Train = Callable[..., RunDir]


def test_samples_are_repeatable_and_described(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "run")
    tokens = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sheet = sample_run(str(run.path), SampleRequest(12, steps=3, seed=seed, out=str(tmp_path / name)))
        assert len(sheet.read_text().split("\n\n")) == 12
        tokens.append(load_file(tmp_path / name / "samples.safetensors")["tokens"])
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])
    about = json.loads((tmp_path / "a" / "sample.json").read_text())
    assert (about["nfe"], about["steps"], about["samples"], about["weights"]) == (3, 3, 12, "ema")


def test_a_student_with_noise_input_is_repeatable_too(train: Train, tmp_path: Path) -> None:
    student = train("smoke-dmmd", "student", teacher=train("smoke-teacher", "teacher"))
    requests = [SampleRequest(8, steps=2, seed=3, out=str(tmp_path / name)) for name in "ab"]
    first, second = (sample_run(str(student.path), request).read_text() for request in requests)
    assert first == second


def test_a_run_of_the_cpu_is_sampled_there_beside_a_gpu(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("smoke-teacher", "run", "train.device=cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert open_model(run.path).denoiser.device.type == "cpu"


def test_weights_and_sampler_settings_matter(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "run", "train.steps=100", "optim.lr=1e-2")
    plain = SampleRequest(64, 4)
    kinds = [plain, replace(plain, weights="raw"), replace(plain, temperature=0.05), replace(plain, top_p=0.1)]
    assert len({sample_run(str(run.path), request).read_text() for request in kinds}) == 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_evaluated_in_the_precision_that_its_recipe_says(
    train: Train, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    run = train("smoke-teacher", "run", f"evaluate.precision={precision}")
    seen: set[torch.dtype] = set()
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(q: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        seen.add(q.dtype)
        return real(q, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    (row,) = evaluate_run(str(run.path), steps=[2], samples=8)
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert row["precision"] == precision


def test_evaluation_counts_and_keeps_rows(train: Train) -> None:
    run = train("smoke-teacher", "run")
    rows = evaluate_run(str(run.path), steps=[1, 5], samples=40)
    assert [(row["steps"], row["nfe"], row["samples"]) for row in rows] == [(1, 1, 40), (5, 5, 40)]
    assert {"ngram_tv", "exact_nll"} <= rows[0]["metrics"].keys()
    more = evaluate_run(str(run.path), steps=[5, 2], samples=40)
    kept = json.loads((run.evaluate / "step-00000020.json").read_text())
    assert [row["steps"] for row in kept] == [1, 2, 5]
    assert [row["metrics"] for row in kept[1:]] == [more[1]["metrics"], more[0]["metrics"]]
    assert more[0] == rows[1]


def test_rows_tell_the_complete_sampler_and_other_samplers_have_rows_of_their_own(train: Train) -> None:
    run = train("smoke-teacher", "run")
    (plain,) = evaluate_run(str(run.path), steps=[9], samples=40)
    assert plain["sampler"] == open_model(run.path).recipe.sampler.model_dump(mode="json")
    (cached,) = evaluate_run(str(run.path), steps=[9], samples=40, sampler="{type: cached_ancestral, greedy_tail: 1}")
    assert (cached["sampler"]["type"], cached["sampler"]["greedy_tail"]) == ("cached_ancestral", 1)
    assert cached["nfe"] < 9
    kept = json.loads((run.evaluate / "step-00000020.json").read_text())
    assert sorted(row["sampler"]["type"] for row in kept) == ["ancestral", "cached_ancestral"]
    with pytest.raises(RecipeError, match="--sampler:1: sampler: no sampler named 'cahced'"):
        evaluate_run(str(run.path), sampler="cahced")


def test_without_a_number_of_steps_a_student_takes_those_it_was_made_for(train: Train) -> None:
    student = train("smoke-dmmd", "student", "objective.k=3", teacher=train("smoke-teacher", "teacher"))
    sheet = sample_run(str(student.path), SampleRequest(4))
    assert json.loads((sheet.parent / "sample.json").read_text())["steps"] == 3
    assert sheet.parent.name == "steps3-seed0-n4"


def test_a_recipe_without_metrics_says_so(train: Train) -> None:
    run = train("smoke-teacher", "run", "evaluate.metrics=[]")
    with pytest.raises(UserError, match=r"no metrics; add them under evaluate\.metrics, or name some with"):
        evaluate_run(str(run.path))


def test_the_export_carries_its_recipe(train: Train) -> None:
    run = train("smoke-teacher", "run")
    with safe_open(run.export, framework="pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert parse_recipe(metadata["recipe"]) == open_model(run.path).recipe
    assert names == set(dict(open_model(run.path).denoiser.named_parameters()))


def test_long_jobs_say_how_far_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    narrator = Narrator("8 steps", every=0.0)
    narrator.start -= 10
    narrator(20, 100)
    narrator(100, 100)
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err == "8 steps: 20/100 samples, left 00:41\n"

"""The best look of a training, and the comparison of a student with its teacher at its end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.core.errors import RecipeError, UserError
from fewstep.metrics.base import METRICS
from fewstep.recipe import load_recipe, parse_recipe
from fewstep.recipe.models import WatchSection
from fewstep.runs.checkpoint import load_checkpoint
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.training.alarm import ConfidenceAlarm
from fewstep.training.judge import affordable, usable
from fewstep.training.launch import fit

LOOKS = ("watch.times=4", "train.checkpoint_every=5", "train.keep_last=9", "train.log_every=5")
EARLY = (*LOOKS, "watch.early_best=coin_distance", "watch.judged=64")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "run"
    fit(load_recipe("coins-teacher", ["train.steps=100"]), RunDir.create("t", path), echo=lambda line: None)
    return path


def distil(teacher: Path, path: Path, *sets: str) -> tuple[RunDir, list[str]]:
    said: list[str] = []
    run = RunDir(path) if path.exists() else RunDir.create("student", path)
    fit(load_recipe("coins-dmmd", ["train.steps=20", *sets], teacher=str(teacher)), run, echo=said.append)
    return run, said


def rows(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def weights(run: RunDir, kind: Any = "ema") -> dict[str, Tensor]:
    return dict(open_model(run.path, weights=kind).denoiser.named_parameters())


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.fixture(scope="module")
def early(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, list[str]]:
    return distil(teacher, tmp_path_factory.mktemp("early") / "run", *EARLY)


def best_step(run: RunDir) -> int:
    scores = {row["step"]: row["watch/coin_tv"] for row in rows(run)}
    assert list(scores) == [5, 10, 15, 20]
    return min(scores, key=lambda step: scores[step])


def test_the_average_of_the_best_look_is_exported(
    teacher: Path, early: tuple[RunDir, list[str]], tmp_path: Path
) -> None:
    (run, said), (plain, _) = early, distil(teacher, tmp_path / "plain", *LOOKS)
    step = best_step(run)
    averages = {s: load_checkpoint(plain.checkpoints / f"step-{s:08d}")["ema"]["weights"] for s in (5, 10, 15, 20)}
    assert [s for s, average in averages.items() if same(weights(run), average)] == [step]
    assert same(weights(RunDir(run.export)), averages[step])
    assert same(weights(run, "raw"), weights(plain, "raw")), "the training does not depend on it"
    assert [line for line in said if line.startswith(f"the average of step {step} is the run's: coin_tv 0.")]


@pytest.mark.parametrize("step", [5, 15])
def test_the_best_look_is_resumed_exactly(
    step: int, teacher: Path, early: tuple[RunDir, list[str]], tmp_path: Path
) -> None:
    whole, again = early[0], tmp_path / "again"
    shutil.copytree(whole.path, again)
    shutil.rmtree(again / "export")
    for folder in (again / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    run, said = distil(teacher, again, *EARLY)
    assert any(line.startswith(f"resumed at step {step}") for line in said)
    ours, theirs = (load_checkpoint(r.checkpoints / "step-00000020") for r in (run, whole))
    assert ours["early_best"]["step"] == theirs["early_best"]["step"] == best_step(run)
    assert ours["early_best"]["score"] == theirs["early_best"]["score"]
    assert same(ours["early_best"]["last"], theirs["early_best"]["last"])
    assert same(weights(run), weights(whole))


def test_the_last_average_goes_on_beside_the_best(
    teacher: Path, early: tuple[RunDir, list[str]], tmp_path: Path
) -> None:
    plain, _ = distil(teacher, tmp_path / "plain", *LOOKS)
    state = load_checkpoint(early[0].checkpoints / "step-00000020")
    assert same(state["early_best"]["last"], weights(plain))


def compared_lines(said: list[str]) -> list[str]:
    return [line for line in said if "the same noise for both" in line]


@pytest.mark.parametrize(("student", "worse"), [(0.3, True), (0.1, False), (0.2, False)])
def test_a_student_is_compared_with_its_teacher(
    student: float, worse: bool, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four draws of each, the student's first; the line warns if the student is worse in all."""
    values = iter([student] * 4 + [0.2] * 4)
    seen: list[Tensor] = []

    def score(samples: Tensor, dataset: object, metrics: object, **options: object) -> dict[str, float]:
        seen.append(samples)
        return {"coin_tv": next(values)}

    monkeypatch.setattr("fewstep.training.judge.score", score)
    monkeypatch.setattr("fewstep.training.judge._SHARE", 1.0)
    run, said = distil(teacher, tmp_path / "run", "watch.times=1", "watch.judged=64")
    (line,) = compared_lines(said)
    assert line.startswith("warning: the student is worse than its teacher: at ") is worse
    assert f"coin_tv is {student:g} for the student and 0.2 for its teacher (4 x 64 samples" in line
    assert line in run.log.read_text()
    assert [len(samples) for samples in seen] == [64] * 8
    assert not torch.equal(seen[0], seen[1]), "draws have noise of their own"


def test_a_metric_that_fails_costs_no_training(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*args: object, **options: object) -> dict[str, float]:
        raise UserError("no samples like these")

    monkeypatch.setattr("fewstep.training.judge.score", score)
    monkeypatch.setattr("fewstep.training.judge._SHARE", 1.0)
    run, said = distil(teacher, tmp_path / "run", "watch.times=1", "watch.judged=64")
    assert any("student and teacher were not compared" in line and "no samples like these" in line for line in said)
    assert run.status["state"] == "finished"


def test_short_trainings_are_not_compared(teacher: Path, early: tuple[RunDir, list[str]]) -> None:
    assert compared_lines(early[1]) == []
    assert affordable(256, 8, 4500, 128) == 180
    assert affordable(256, 8, 45_000, 128) == 256
    assert affordable(256, 8, 450, 128) == 0


def test_the_first_metric_that_says_which_is_better_is_taken(teacher: Path) -> None:
    dataset = open_model(teacher).dataset
    neutral, model = (METRICS.parse(name) for name in ("sample_entropy", "likelihood_bound"))
    metric = METRICS.parse("coin_distance")
    assert usable([neutral, model, metric], dataset) is metric
    assert usable([neutral, model, METRICS.parse("feature_frechet")], dataset) is None


@pytest.mark.parametrize(
    ("watch", "objective", "message"),
    [
        ({"early_best": "coin_distance", "times": 0}, "dmmd", r"watch\.times: is 0, and watch\.early_best keeps"),
        ({"early_best": "coin_distance", "judged": 0}, "dmmd", r"watch\.judged: is 0, and watch\.early_best scores"),
        ({"early_best": "sample_entropy"}, "dmmd", r"watch\.early_best: metric 'sample_entropy' has no value of which"),
        ({"early_best": "likelihood_bound"}, "dmmd", r"watch\.early_best: metric 'likelihood_bound' measures a model"),
        (
            {"early_best": "feature_frechet"},
            "dmmd",
            r"watch\.early_best: metric 'feature_frechet' cannot score 'coins'",
        ),
        ({"early_best": "coin_distance"}, "denoising", r"watch\.early_best: objective 'denoising' has no teacher"),
        ({"early_best": "coin_distanc"}, "dmmd", r"watch\.early_best.*coin_distance"),
    ],
)
def test_what_cannot_choose_a_look_is_refused(watch: dict[str, Any], objective: str, message: str) -> None:
    raw = {"name": "x", "data": "coins", "process": "masked", "backbone": "transformer", "train": {"steps": 10}}
    teachers = {"teacher": {"run": "runs/x"}} if objective == "dmmd" else {}
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**raw, **teachers, "objective": objective, "watch": watch})


def line(entropy: float, ratio: float, phase: str = "both") -> dict[str, float]:
    """Numbers of a log line: the teacher has 1.8 nats, and only one bin of each is out of the ordinary."""
    return {
        f"{phase}/student_entropy": 1.0,
        f"{phase}/log_ratio": 0.5,
        f"{phase}/student_entropy/0-0.25": 1.0,
        f"{phase}/teacher_entropy/0-0.25": 1.0,
        f"{phase}/student_entropy/0.75-1": entropy,
        f"{phase}/teacher_entropy/0.75-1": 1.8,
        f"{phase}/log_ratio/0-0.25": ratio,
        f"{phase}/log_ratio/0.75-1": 0.1,
        f"{phase}/loss": 0.3,
    }


def test_the_alarm_of_confident_students() -> None:
    def heard(*looks: tuple[float, float]) -> list[bool]:
        alarm = ConfidenceAlarm(0.5, 2.0)
        return [alarm.look(line(*look)) is not None for look in looks]

    assert heard((0.4, 2.6), (0.4, 2.6), (0.4, 2.7)) == [False, True, True], "it stays high"
    assert heard((0.4, 2.6), (0.4, 2.2), (0.4, 1.6)) == [False, False, False], "it falls"
    assert heard((0.4, 1.6), (0.4, 1.8)) == [False, False], "it is within its limit"
    assert heard((1.2, 2.6), (1.2, 2.7)) == [False, False], "the student is not confident"
    assert ConfidenceAlarm(0.5, 2.0).look({"student/loss": 0.1}) is None
    alarm = ConfidenceAlarm(0.5, 2.0)
    alarm.look(line(0.4, 2.6))
    assert alarm.look(line(0.4, 2.65)) == (
        "at t 0.75-1 the student's output entropy is 0.40 nats where its teacher has 1.80, and at t 0-0.25 auxiliary "
        "and teacher differ by 2.65 nats a symbol, no less than a look before"
    )


MOMENTUM = {
    125: ((0.78, 0.84, 1.03, 1.56), (1.09, 1.23, 1.51, 1.84), (2.81, 2.51, 1.78, 0.87)),
    250: ((0.39, 0.33, 0.42, 0.48), (0.99, 1.28, 1.51, 1.84), (3.45, 2.88, 2.39, 1.7)),
    375: ((0.41, 0.41, 0.41, 0.44), (1.03, 1.27, 1.54, 1.86), (3.47, 2.86, 1.95, 0.8)),
    500: ((0.37, 0.39, 0.46, 0.58), (1.02, 1.24, 1.54, 1.85), (3.53, 2.86, 1.91, 0.87)),
}
"""Entropies of student and teacher and log-ratios by bins, at four looks of a training that momentum ruins.

`fewstep distill markov-dmmd --set data.vocab_size=8 --set data.length=16 --set train.steps=500
--set optim.betas=[0.9,0.99]`, whose samples are 91 to 100 % as diverse as the data.
"""


def test_the_alarm_hears_what_momentum_does() -> None:
    alarm = ConfidenceAlarm(WatchSection().entropy, WatchSection().log_ratio)
    heard = []
    for step, looks in MOMENTUM.items():
        named = zip(("student_entropy", "teacher_entropy", "log_ratio"), looks, strict=True)
        bins = ("0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1")
        values = {f"both/{name}/{bin}": x for name, row in named for bin, x in zip(bins, row, strict=True)}
        heard += [step] if alarm.look(values) else []
    assert heard == [250, 375, 500]


def test_the_alarm_hears_the_first_line_after_a_look(teacher: Path, tmp_path: Path) -> None:
    """Limits of 0: any student that is less sure than certain is one line a look, from the second look on."""
    sets = ("watch.times=4", "train.log_every=1", "watch.entropy=1", "watch.log_ratio=0")
    _, said = distil(teacher, tmp_path / "run", *sets)
    warnings = [text for text in said if "no less than a look before" in text]
    assert len(warnings) <= 3
    for text in warnings:
        assert text.startswith(("warning: step 10: at t", "warning: step 15: at t", "warning: step 20: at t"))
        assert "optim.betas with 0 first" in text
    assert warnings

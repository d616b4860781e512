"""The loop: numbers it writes, how it stops, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.core.errors import OperationError, UserError
from fewstep.objectives.base import Batch, LossOutput, Phase, StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.objectives.dmmd import DMMD
from fewstep.recipe import load_recipe
from fewstep.runs.checkpoint import load_checkpoint
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.training.launch import fit, launch
from fewstep.training.trainer import Trainer

Train = Callable[..., RunDir]


def rows(run: RunDir) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_a_run_folder_tells_everything(train: Train) -> None:
    run = train("smoke-teacher", "run")
    names = {path.name for path in run.path.iterdir()}
    wanted = {
        "recipe.yaml",
        "recipe.resolved.yaml",
        "environment.json",
        "log.txt",
        "metrics.jsonl",
        "tb",
        "status.json",
    }
    assert wanted | {"checkpoints", "export"} <= names
    assert run.status.items() >= {"state": "finished", "step": 20, "steps": 20}.items()
    environment = json.loads(run.environment.read_text())
    assert environment["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert len(environment["data"]) == 64
    assert environment["seed"] == 0
    assert [row["step"] for row in rows(run)] == [10, 20]
    assert {"train/loss", "student/lr", "student/grad_norm", "tokens_per_second"} <= rows(run)[0].keys()
    assert any(path.name.startswith("events.out") for path in run.tensorboard.iterdir())
    assert run.recipe.read_text().startswith("# Seconds long")


@pytest.mark.medium
def test_training_learns(train: Train) -> None:
    run = train("smoke-teacher", "run", "train.steps=300", "train.log_every=50", "optim.lr=3e-3")
    losses = [row["train/loss"] for row in rows(run)]
    assert losses[-1] < 0.8 * losses[0]


def test_bf16_trains_close_to_fp32(train: Train) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        run = train("smoke-teacher", precision, f"train.precision={precision}", "train.steps=40")
        assert all(w.dtype == torch.float32 for w in load_checkpoint(run.last_checkpoint(), "ema/weights").values())
        losses.append(rows(run)[-1]["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a loss that does not depend on draws, two micro-batches of a half equal one whole batch."""

    def loss(self: Denoising, phase: object, batch: object, ctx: object) -> LossOutput:
        x0 = batch.x0  # type: ignore[attr-defined]
        masked = torch.full_like(x0, ctx.process.mask_id)  # type: ignore[attr-defined]
        nll = ctx.roles["student"](masked, torch.ones(len(x0))).nll(x0)  # type: ignore[attr-defined]
        return LossOutput(nll.mean(), {"nll": nll.detach().mean()})

    monkeypatch.setattr(Denoising, "loss", loss)
    weights, logged = [], []
    for parts in (1, 2, 4):
        loaded = load_recipe("smoke-teacher", [f"train.accumulate={parts}", "train.steps=4", "optim.optimizer=adam"])
        run = RunDir(tmp_path / str(parts))
        fit(loaded, run, echo=lambda line: None)
        weights.append(load_checkpoint(run.last_checkpoint(), "roles/student")["backbone.head.weight"])
        logged.append([rows(run)[-1][key] for key in ("train/loss", "train/nll")])
    for other, numbers in zip(weights[1:], logged[1:], strict=True):
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-6)
        assert numbers == pytest.approx(logged[0], rel=1e-5)


def test_roles_have_their_own_optimiser_settings(train: Train) -> None:
    teacher = train("smoke-teacher", "teacher")
    sets = ("optim.lr=1e-3", "optim.roles.auxiliary.lr=5e-3", "optim.roles.auxiliary.clip=0.5")
    run = train("smoke-dmmd", "student", *sets, teacher=teacher)
    last = rows(run)[-1]
    assert last["student/lr"] == pytest.approx(1e-3)
    assert last["auxiliary/lr"] == pytest.approx(5e-3)


def test_a_student_starts_as_its_teacher_and_both_roles_move(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher")
    recipe = load_recipe("smoke-dmmd", teacher=str(teacher.path)).recipe
    trainer = Trainer.from_recipe(recipe, RunDir.create("x", tmp_path / "student"), echo=lambda line: None)
    start = open_model(teacher.path).denoiser.backbone.state_dict()
    for role in ("teacher", "student", "auxiliary"):
        for name, weight in trainer.roles[role].backbone.state_dict().items():  # type: ignore[union-attr, operator]
            assert torch.equal(weight, start[name]), f"{role}: {name}"
    trainer.fit()
    for role in ("student", "auxiliary"):
        moved = trainer.roles[role].backbone.state_dict()  # type: ignore[union-attr, operator]
        assert any(not torch.equal(moved[name], start[name]) for name in start), role


def test_only_roles_that_a_phase_trains_have_dropout(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own turn the student's prediction is random, and the teacher's and the auxiliary's are not."""
    honest, repeatable = DMMD.loss, {"student": set(), "auxiliary": set()}  # type: ignore[var-annotated]

    def observed(self: DMMD, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        x, t = ctx.process.prior((4, 8), device="cpu", generator=None), torch.ones(4)
        for name, role in ctx.roles.items():
            with torch.no_grad():
                first, second = (role(x, t, generator=torch.Generator().manual_seed(1)).log_probs() for _ in range(2))
            repeatable[phase.name].add((name, torch.equal(first, second)))
        return honest(self, phase, batch, ctx)

    monkeypatch.setattr(DMMD, "loss", observed)
    teacher = train("smoke-teacher", "teacher", "backbone.dropout=0.5")
    sets = ["backbone.dropout=0.5", "objective.updates=alternating", "train.steps=6"]
    recipe = load_recipe("smoke-dmmd", sets, teacher=str(teacher.path)).recipe
    Trainer.from_recipe(recipe, RunDir.create("x", tmp_path / "student"), echo=lambda line: None).fit()
    assert repeatable["student"] == {("teacher", True), ("student", False), ("auxiliary", True)}
    assert repeatable["auxiliary"] == {("teacher", True), ("student", True), ("auxiliary", False)}


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(bad: str, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Denoising.loss

    def broken(self: Denoising, phase: object, batch: object, ctx: object) -> LossOutput:
        out = honest(self, phase, batch, ctx)  # type: ignore[arg-type]
        if ctx.step < 12:  # type: ignore[attr-defined]
            return out
        return LossOutput(out.loss * float("nan") if bad == "loss" else Cliff.apply(out.loss), out.metrics)

    monkeypatch.setattr(Denoising, "loss", broken)
    with pytest.raises(OperationError) as caught:
        train("smoke-teacher", "run", "train.checkpoint_every=5")
    message = str(caught.value)
    assert "step 13" in message
    assert "step-00000010" in message
    run = RunDir(Path(message.split("checkpoint is ")[1].split("; ")[0]).parents[1])
    assert run.status["state"] == "failed"
    state = load_checkpoint(run.last_checkpoint())
    assert all(torch.isfinite(w).all() for w in state["roles"]["student"].values())


class Cliff(torch.autograd.Function):
    """A finite value whose gradient is infinite."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * float("inf")


@pytest.mark.medium
def test_sigterm_saves_and_exits_0_and_resume_finishes(tmp_path: Path) -> None:
    sets = ["--set", "train.steps=100000", "--set", "train.log_every=5"]
    command = [sys.executable, "-m", "fewstep", "train", "smoke-teacher", "--run-dir", str(tmp_path / "run"), *sets]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output = process.stdout.read()
    assert process.wait(30) == 0
    assert "--resume" in output
    run = RunDir.open(tmp_path / "run")
    assert run.status["state"] == "stopped"
    step = run.status["step"]
    launch("smoke-teacher", resume=str(run.path), sets=[f"train.steps={step + 5}", "train.log_every=5"])
    assert run.status.items() >= {"state": "finished", "step": step + 5, "steps": step + 5}.items()


def test_resume_auto_continues_or_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = launch("smoke-teacher", resume="auto")
    RunDir.open(first).set_status("stopped", step=20, steps=20)
    assert launch("smoke-teacher", resume="auto") == first
    assert launch("smoke-teacher", resume="auto") != first, "a finished run is not continued"


def test_a_run_is_not_resumed_with_another_recipe(train: Train) -> None:
    run = train("smoke-teacher", "run")
    with pytest.raises(UserError, match=r"backbone\.width"):
        launch("smoke-teacher", resume=str(run.path), sets=["backbone.width=32"])


def test_a_teacher_that_does_not_fit_is_refused(train: Train) -> None:
    teacher = train("smoke-teacher", "teacher")
    for change, key in (
        ("backbone.width=32", "backbone.width"),
        ("process=uniform", "process"),
        ("data.size=100", "data"),
    ):
        with pytest.raises(UserError, match=key):
            train("smoke-dmmd", key, change, teacher=teacher)


def test_missing_runs_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match="no run in 'runs/digits-teacher'; train one first: fewstep train digits-teacher"
    ):
        open_model("runs/digits-teacher/latest")
    with pytest.raises(UserError, match="not a run folder"):
        open_model(str(tmp_path))


def test_a_run_names_the_very_teacher_it_had(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = launch("smoke-teacher")
    student = RunDir(launch("smoke-dmmd"))
    assert load_recipe(student.resolved).recipe.teacher.run == str(teacher.absolute())  # type: ignore[union-attr]


def test_a_missing_teacher_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="train one first: fewstep train smoke-teacher"):
        launch("smoke-dmmd")
    assert not any(tmp_path.iterdir())


def test_training_leaves_the_callers_random_stream_alone(train: Train) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train("smoke-teacher", "run", "backbone.dropout=0.1")
    assert torch.equal(torch.rand(3), expected)


def test_a_setting_that_this_device_lacks_is_a_failed_run(train: Train, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("xformers may run here")
    with pytest.raises(UserError, match="xformers has no cpu operator"):
        train("smoke-teacher", "run", "backbone.attention=xformers")
    assert RunDir(tmp_path / "run").status["state"] == "failed"


@pytest.mark.parametrize(("size", "warned"), [(4, True), (8, False)])
def test_fewer_samples_than_a_batch_are_a_warning(size: int, warned: bool, tmp_path: Path) -> None:
    sets = [f"data.size={size}", "train.batch_size=8", "train.steps=1"]
    lines = list[str]()
    fit(load_recipe("smoke-teacher", sets), RunDir(tmp_path / "run"), echo=lines.append)
    warnings = [line for line in lines if line.startswith("warning: ")]
    expected = "warning: 4 training samples, fewer than a batch of 8 (train.batch_size), which repeats them"
    assert warnings == [expected] * warned

"""Losses and gradients that must not change the weights: injected, left out, gone back from, counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fewstep.core.errors import OperationError
from fewstep.objectives.base import Batch, LossOutput, Phase, StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.recipe import load_recipe
from fewstep.recipe.models import TrainSection
from fewstep.runs.checkpoint import list_checkpoints, load_checkpoint
from fewstep.runs.folder import RunDir
from fewstep.training.mishaps import Mishaps
from fewstep.training.trainer import Trainer

SHORT = ("train.steps=8", "train.log_every=2", "train.checkpoint_every=2", "train.keep_last=9")
Inject = Callable[..., None]


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Inject:
    """Multiply the loss of some calls by a value; calls are counted over the whole test."""
    calls, plain = [0], Denoising.loss

    def at(*numbers: int, factor: float = float("nan"), where: str = "loss") -> None:
        def loss(self: Denoising, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
            calls[0] += 1
            out = plain(self, phase, batch, ctx)
            if calls[0] not in numbers:
                return out
            if where == "gradient":  # the value is finite, its derivative is not
                value = out.loss.clone()
                value.register_hook(lambda gradient: gradient * factor)
                return LossOutput(value, out.metrics)
            return LossOutput(out.loss * factor, out.metrics)

        monkeypatch.setattr(Denoising, "loss", loss)

    return at


def trained(folder: Path, *changes: str) -> tuple[RunDir, list[str], Trainer]:
    run, lines = RunDir.create("run", folder), list[str]()
    trainer = Trainer.from_recipe(load_recipe("smoke-teacher", [*SHORT, *changes]).recipe, run, echo=lines.append)
    trainer.fit()
    return run, lines, trainer


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_mishap_stops_by_default(where: str, inject: Inject, tmp_path: Path) -> None:
    inject(6, where=where)
    with pytest.raises(OperationError, match=r"is nan in phase 'train' at step 6; stopped .*step-00000004; a lower"):
        trained(tmp_path / "run")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_skip_leaves_the_update_out(where: str, inject: Inject, tmp_path: Path) -> None:
    """The weights after the step are those before it, and the step counts."""
    inject(4, where=where)
    run, lines, trainer = trained(tmp_path / "run", "train.non_finite=skip", "train.checkpoint_every=1")
    third, fourth, fifth = (load_checkpoint(path, "roles/student") for path in list_checkpoints(run.checkpoints)[2:5])
    assert all(torch.equal(third[name], fourth[name]) for name in third)
    assert not all(torch.equal(fourth[name], fifth[name]) for name in third)
    assert [line for line in lines if "left out" in line and "step 4: " in line and "(1 of 10)" in line]
    assert trainer.ctx.step == 8
    assert all("NaN" not in line for line in run.metrics.read_text().splitlines())


def test_back_returns_to_the_checkpoint_with_other_noise_and_data(inject: Inject, tmp_path: Path) -> None:
    """Steps 5 and 6 are done twice; the second time by other batches, and log lines appear once."""
    inject(6)
    run, lines, trainer = trained(tmp_path / "run", "train.non_finite=back", "train.log_every=1")
    assert [line for line in lines if "went back to step-00000004 (1 of 10)" in line]
    assert [row["step"] for row in run.log_lines()] == list(range(1, 9))
    assert trainer.loader.position == 10 * trainer.settings.train.batch_size, "ten batches were read for eight steps"
    assert trainer.updates.counts == {"student": 8}


def test_back_without_a_checkpoint_stops(inject: Inject, tmp_path: Path) -> None:
    inject(1)
    with pytest.raises(OperationError, match="there is no checkpoint yet"):
        trained(tmp_path / "run", "train.non_finite=back")


@pytest.mark.parametrize("action", ["skip", "back"])
def test_the_budget_ends(action: str, inject: Inject, tmp_path: Path) -> None:
    inject(*range(4, 40))
    with pytest.raises(OperationError, match=r"after 3 such steps \(train.mishap_budget\); stopped"):
        trained(tmp_path / "run", f"train.non_finite={action}", "train.mishap_budget=3")


@pytest.mark.parametrize("action", ["skip", "back"])
def test_an_interrupted_run_with_mishaps_resumes_exactly(action: str, inject: Inject, tmp_path: Path) -> None:
    """The count of mishaps and the windows of losses are part of the checkpoint."""
    changes = (f"train.non_finite={action}", "train.mishap_budget=1", "train.spike.window=10")
    inject(4)
    _, _, straight = trained(tmp_path / "straight", *changes)
    assert straight.mishaps.count == 1
    recipe = load_recipe("smoke-teacher", [*SHORT, *changes]).recipe
    run = RunDir(tmp_path / "straight")
    for checkpoint in list_checkpoints(run.checkpoints)[-1:]:
        for file in checkpoint.iterdir():
            file.unlink()
    again = Trainer.from_recipe(recipe, run, echo=lambda line: None)
    again.fit()
    assert again.mishaps.state_dict() == straight.mishaps.state_dict()
    for name, weight in straight.roles["student"].state_dict().items():
        assert torch.equal(weight, again.roles["student"].state_dict()[name])


def test_a_spike_is_skipped(inject: Inject, tmp_path: Path) -> None:
    inject(15, factor=50.0)
    changes = ("train.steps=20", "train.spike.window=10", "train.spike.factor=20")
    _, lines, trainer = trained(tmp_path / "run", *changes)
    assert [line for line in lines if "step 15: loss" in line and "is a spike (median of the last 10" in line]
    assert trainer.mishaps.count == 1


def test_spikes_are_judged_against_the_window_of_their_phase() -> None:
    mishaps = Mishaps(TrainSection(steps=1, spike={"window": 10, "factor": 4.0, "action": "skip"}))
    for index in range(10):
        assert mishaps.judge("a", -1.0 + 0.01 * index, {}) is None, "losses may be negative"
        assert mishaps.judge("b", 100.0, {}) is None, "the first losses of a phase are no spikes"
    assert mishaps.judge("a", -0.7, {}) is not None
    assert mishaps.judge("a", -2.0, {}) is None, "only what is above"
    assert mishaps.judge("a", -0.95, {}) is None
    assert mishaps.judge("b", 101.0, {}) is not None, "a constant loss has no spread"


def test_spikes_are_off_by_default() -> None:
    mishaps = Mishaps(TrainSection(steps=1))
    assert all(mishaps.judge("a", loss, {}) is None for loss in [1.0] * 200 + [1e9])

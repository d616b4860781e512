"""A training step waits for the device at most once between two log lines, and not at all in the trainer itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.core.errors import OperationError
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Phase, StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.recipe import load_recipe
from fewstep.recipe.models import Recipe
from fewstep.testing.objectives import _processes, _recipe, _run, _silent, _train
from fewstep.testing.synchronisations import Synchronisations
from fewstep.training.trainer import Trainer

SMALL = {"shared_noise": {"groups": 3}, "rectified": {"pairs": 64, "teacher_steps": 4}}
STEPS = 6


def test_the_trainer_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Batches, clipping, update, average, metrics with counts of their own, and the guard against nan."""
    monkeypatch.setattr(Denoising, "loss", _plain_loss)
    trainer = _trainer(tmp_path, "train.accumulate=2")
    with Synchronisations() as seen:
        for _ in range(STEPS):
            trainer._step()
    assert not seen.counts
    assert trainer._flush_metrics()["train/share"] == pytest.approx(0.5)


@pytest.mark.parametrize("change", ["train.non_finite=skip", "train.non_finite=back", "train.spike.window=10"])
def test_who_acts_on_each_step_waits_once(change: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Denoising, "loss", _plain_loss)
    trainer = _trainer(tmp_path, change)
    with Synchronisations() as seen:
        for _ in range(STEPS):
            trainer._step()
    assert seen.counts == {"tolist": STEPS}


def test_nothing_changes_from_a_step_on_that_is_not_finite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host asks six steps later, and still names the step; weights and moments are those before it."""
    poisoned = 3

    def loss(self: Denoising, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        out = _plain_loss(self, phase, batch, ctx)
        return LossOutput(out.loss * float("nan") if ctx.step == poisoned else out.loss, out.metrics)

    monkeypatch.setattr(Denoising, "loss", loss)
    trainer = _trainer(tmp_path)
    states = []
    for _ in range(10):
        states.append({name: weight.clone() for name, weight in trainer.roles["student"].state_dict().items()})
        trainer._step()
    after = trainer.roles["student"].state_dict()
    assert all(torch.equal(states[poisoned][name], after[name]) for name in after)
    assert any(not torch.equal(states[poisoned - 1][name], after[name]) for name in after)
    moments = trainer.updates.optimizers["student"].state_dict()["state"]
    assert {float(state["step"]) for state in moments.values()} == {float(poisoned)}
    assert all(state["exp_avg"].isfinite().all() for state in moments.values())
    assert all(weight.isfinite().all() for weight in trainer.ema.weights.values())
    with pytest.raises(OperationError, match=r"loss is nan in phase 'train' at step 4; stopped before the update"):
        trainer.save()


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_steps_wait_at_most_once(name: str, tmp_path: Path) -> None:
    settings = {"type": name, **SMALL.get(name, {})}
    for process in _processes(settings):
        folder = tmp_path / process
        teacher = _train(_recipe("denoising", process, 1, None), folder / "teacher")
        trainer = _ready(_recipe(settings, process, 100, teacher.run.path), folder / "run")
        for _ in range(len(trainer.turns.cycle)):
            trainer._step()  # the first steps may fill caches, and those of the first round diagnose
        trainer._diagnoses = lambda: False  # type: ignore[method-assign]  # log lines ask for more
        with Synchronisations() as seen:
            for _ in range(STEPS):
                trainer._step()
        assert seen.total <= STEPS, f"{process}: {dict(seen.counts)} in {STEPS} steps"


def _plain_loss(self: Denoising, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
    """A loss without a prediction, with a metric that is a mean and one that has a count."""
    weights = torch.stack([parameter.square().sum() for parameter in ctx.roles["student"].parameters()])
    half = (weights.sum().detach(), torch.full((), 2, device=ctx.device) * weights.sum().detach())
    return LossOutput(weights.sum(), {"size": weights.sum().detach(), "share": half})


def _trainer(folder: Path, *changes: str) -> Trainer:
    return _ready(load_recipe("smoke-teacher", [*changes, "train.log_every=1000"]).recipe, folder / "run")


def _ready(recipe: Recipe, folder: Path) -> Trainer:
    """A trainer before its first step, as `fit` prepares it."""
    trainer = Trainer.from_recipe(recipe, _run(recipe, folder), echo=_silent)
    trainer.objective.setup(trainer.ctx)
    return trainer

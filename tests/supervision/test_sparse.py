"""Sparse supervision: the share of tokens that count, and gradients that stay those of all tokens on average."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from logged_metrics import logged

from fewstep.core.errors import UserError
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runtime.streams import SampleStreams
from fewstep.supervision.base import SUPERVISIONS
from fewstep.training.launch import fit, launch
from fewstep.training.trainer import Trainer

SMALL = ("train.steps=4", "train.log_every=1", "train.device=cpu", "watch.times=0")


def ready(folder: Path, *changes: str, recipe: str = "smoke-teacher", teacher: str | None = None) -> Trainer:
    loaded = load_recipe(recipe, [*SMALL, *changes], teacher=teacher)
    trainer = Trainer.from_recipe(loaded.recipe, RunDir.create("run", folder), echo=lambda line: None)
    trainer.objective.setup(trainer.ctx)
    torch.manual_seed(0)
    with torch.no_grad():  # an auxiliary that is the teacher gives no gradient
        for role in trainer.roles.values():
            for parameter in role.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return trainer


def gradient(trainer: Trainer, step: int = 0) -> torch.Tensor:
    """Gradient of the first phase's loss on the same samples, with the masks of a step."""
    phase = trainer.objective.phases()[0]
    for name, role in trainer.roles.items():
        role.take_gradients(name in phase.train)
        role.zero_grad()
    rows = torch.arange(8)
    trainer.ctx.batch = batch = trainer.batch(rows)
    if trainer.batches.supervision is not None:
        streams = SampleStreams(step, range(8), purpose="supervision")
        mask = trainer.batches.supervision.mask(tuple(batch.x0.shape), device=batch.x0.device, generator=streams)
        trainer.ctx.batch = batch = type(batch)(batch.x0, batch.cond, batch.text, batch.implied, mask)
    trainer.objective.loss(phase, batch, trainer.ctx).loss.backward()
    student = trainer.roles["student"]
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def test_each_token_counts_with_the_share_as_its_probability() -> None:
    sparse = SUPERVISIONS.build({"type": "sparse", "share": 0.1})
    mask = sparse.mask((1000, 100), device=torch.device("cpu"), generator=SampleStreams(0, range(1000)))
    assert mask.float().mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 1e5))
    assert mask.float().mean(1).var() == pytest.approx(0.09 / 100, rel=0.2), "tokens are independent"
    whole = SUPERVISIONS.build({"type": "sparse", "share": 1})
    assert whole.mask((4, 8), device=torch.device("cpu"), generator=SampleStreams(0, range(4))).all()


@pytest.mark.parametrize("objective", ["denoising", "dmmd"])
def test_gradients_are_unbiased(objective: str, tmp_path: Path) -> None:
    """The mean over 400 masks is the gradient of all tokens: |z| < 4.5 in each of 40 random directions."""
    recipe, teacher = "smoke-teacher", None
    if objective == "dmmd":
        launch("smoke-teacher", run_dir=str(tmp_path / "teacher"), sets=list(SMALL))
        recipe, teacher = "smoke-dmmd", str(tmp_path / "teacher")
    full = gradient(ready(tmp_path / "full", recipe=recipe, teacher=teacher))
    trainer = ready(tmp_path / "run", "supervision={type: sparse, share: 0.5}", recipe=recipe, teacher=teacher)
    directions = torch.randn(full.numel(), 40, generator=torch.Generator().manual_seed(0))
    samples = torch.stack([gradient(trainer, step) @ directions for step in range(400)])
    spread = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - full @ directions) / spread).abs().max() < 4.5
    assert (samples.std(0) > 0).all()


@pytest.mark.parametrize("recipe", ["smoke-teacher", "smoke-dmmd"])
def test_a_share_of_1_changes_nothing(recipe: str, tmp_path: Path) -> None:
    launch("smoke-teacher", run_dir=str(tmp_path / "teacher"), sets=list(SMALL))
    teacher = None if recipe == "smoke-teacher" else str(tmp_path / "teacher")
    lines = []
    for name, changes in (("all", []), ("one", ["supervision={type: sparse, share: 1}"])):
        run = RunDir.create("run", tmp_path / name)
        fit(load_recipe(recipe, [*SMALL, *changes], teacher=teacher), run, echo=lambda line: None)
        lines.append(logged(run.metrics))
    for ours, theirs in zip(*lines, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_masks_do_not_depend_on_the_division_of_a_batch(tmp_path: Path) -> None:
    """Two micro-batches weigh as many terms as they have: the same training."""
    weights = []
    for parts in (1, 2):
        trainer = ready(tmp_path / str(parts), "supervision={type: sparse, share: 0.3}", f"train.accumulate={parts}")
        trainer.fit()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.roles["student"].parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


REFUSED = {
    "di4c": "markov-di4c",
    "didi": "markov-didi",
    "classifier": "digits-classifier",
    "vq": "digits-vq",
}
"""Objectives whose loss is no sum over tokens, and a recipe of each."""


@pytest.mark.parametrize("objective", REFUSED)
def test_losses_of_whole_samples_are_refused(objective: str, tmp_path: Path) -> None:
    """By file and line, with the remedy."""
    (tmp_path / "mine.yaml").write_text(f"extends: {REFUSED[objective]}\nname: mine\n\nsupervision: sparse\n")
    teacher = "runs/teacher" if objective.startswith("di") else None
    message = rf"mine\.yaml:4: supervision: the loss of objective '{objective}' is no sum over tokens; remove"
    with pytest.raises(UserError, match=message):
        load_recipe(str(tmp_path / "mine.yaml"), teacher=teacher)


def test_no_other_objective_is_refused() -> None:
    entries = {entry.name: entry.cls for entry in OBJECTIVES.entries()}
    built_in = {name for name, cls in entries.items() if cls.__module__.startswith("fewstep.") and not cls.per_token}
    assert built_in == set(REFUSED)


def test_recipes_of_sparse_supervision_differ_from_others_in_that_alone() -> None:
    for sparse, full in (("markov-sparse-teacher", "markov-teacher"), ("digits-few-sparse", "digits-few")):
        ours, theirs = (load_recipe(name).recipe for name in (sparse, full))
        assert ours.supervision is not None
        assert ours.model_copy(update={"name": full, "supervision": None}) == theirs


def test_directions_are_of_all_tokens_and_losses_of_supervised_ones(tmp_path: Path) -> None:
    """`dmmd_instant` averages its direction by `Batch.mean`, and its loss by `StepContext.mean`."""
    trainer = ready(tmp_path / "run", "supervision={type: sparse, share: 0.3}")
    batch = trainer.ctx.batch = trainer.batch(torch.arange(8))
    values = torch.rand(batch.x0.shape)
    assert batch.supervised is not None
    assert batch.mean(values) == pytest.approx(float(values.mean()))
    assert trainer.ctx.mean(values) == pytest.approx(float(values[batch.supervised].mean()))

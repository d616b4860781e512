"""The student's step of matching objectives: its draws, and the rows of the vocabulary that they compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES, Batch, StepContext
from fewstep.objectives.matching.student_step import draw_step, student_step
from fewstep.predictions.base import Prediction
from fewstep.processes.base import PROCESSES
from fewstep.runtime.streams import SampleStreams


def context(process: str, network: Any = None) -> StepContext:
    states = PROCESSES.build(process, vocab_size=7)
    if network is None:
        torch.manual_seed(0)
        config = {"type": "transformer", "width": 16, "depth": 1, "heads": 2}
        backbone = BACKBONES.build(config, tokens=TokenSpace(states.num_states, 7, 12))
        torch.nn.init.normal_(backbone.head.weight)
        network = NetworkDenoiser(backbone, states)
    streams = {name: SampleStreams(0, range(64), purpose=name) for name in ("time", "noise", "sample")}
    ctx = StepContext(dict.fromkeys(("student", "teacher", "auxiliary"), network), states, streams, torch.device("cpu"))
    ctx.batch = ctx.as_batch(torch.randint(7, (64, 12), generator=torch.Generator().manual_seed(1)))
    return ctx


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_z_s_is_noised_from_the_hard_draw(process: str) -> None:
    """q(z_s | z_t, x) with the same numbers, whether x is drawn everywhere or where z_s needs it."""
    ctx = context(process)
    step = student_step(ctx.batch, ctx, draw_step(ctx.batch, ctx, k=4, min_time=1e-3), grad=False)
    streams = SampleStreams(0, range(64), purpose="sample")
    x = step.prediction.sample(generator=streams)
    z_s = ctx.process.posterior_sample(x, step.z_t, step.t, step.s, generator=streams)
    assert torch.equal(step.z_s, z_s)
    assert torch.equal(step.x, x)
    assert not torch.equal(step.z_s, step.z_t)


def test_a_step_of_dmmd_computes_each_row_of_the_student_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked: at the revealed tokens for the draw, and at the masks that stay for the loss."""
    ctx, rows = context("masked"), list[int]()
    plain = Prediction.source

    def counted(self: Prediction, where: Tensor) -> Tensor:
        rows.append(int(where.sum()))
        return plain(self, where)

    head = type(ctx.roles["student"](ctx.batch.x0, torch.rand(64)))
    plain = head.source
    monkeypatch.setattr(head, "source", counted)
    step = student_step(ctx.batch, ctx, draw_step(ctx.batch, ctx, k=4, min_time=1e-3), grad=False)
    revealed = int((step.z_t != step.z_s).sum())
    assert rows == [revealed]
    assert 0 < revealed < int((step.z_t == 7).sum())


@pytest.mark.parametrize("renoise", ["forward", "forward_soft"])
def test_the_target_is_the_draw_that_made_z_s(renoise: str) -> None:
    ctx = context("masked")
    step = student_step(
        ctx.batch, ctx, draw_step(ctx.batch, ctx, k=4, min_time=1e-3, renoise=renoise), grad=False, renoise=renoise
    )
    shown = step.z_s != 7
    assert shown.any()
    assert torch.equal(step.z_s[shown], step.x[shown])


def test_soft_and_hard_targets_see_the_same_states() -> None:
    """The hard target draws x everywhere, by the same numbers."""
    losses = []
    for target in ("soft", "hard"):
        ctx = context("masked")
        objective = OBJECTIVES.build({"type": "dmmd", "aux_target": target})
        batch: Batch = ctx.batch
        losses.append(objective.loss(objective.phases()[0], batch, ctx).loss)
    assert torch.equal(*losses)

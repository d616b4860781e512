"""One place reduces losses, and the conformance check finds an objective that does it itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.objectives.base import StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.processes.base import PROCESSES
from fewstep.testing import check_objective

CONTEXT = StepContext({}, PROCESSES.build("masked", vocab_size=4), {}, torch.device("cpu"))


def test_a_mean_over_some_tokens_counts_no_other() -> None:
    values = torch.tensor([[1.0, 2.0, float("inf")], [4.0, 5.0, 6.0]], requires_grad=True)
    where = torch.tensor([[True, True, False], [False, False, True]])
    mean = CONTEXT.mean(values, where)
    mean.backward()
    assert mean == 3.0
    assert torch.equal(values.grad, where / 3.0)
    assert CONTEXT.mean(values, torch.zeros_like(where)) == 0.0
    finite = values.detach().nan_to_num(posinf=3.0)
    assert torch.equal(CONTEXT.mean(finite), finite.mean())
    assert torch.equal(CONTEXT.sum(finite), finite.sum())


def test_the_check_finds_a_loss_that_is_reduced_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(StepContext):
        def mean(self, values: Tensor, where: Tensor | None = None) -> Tensor:
            return values.mean()

    honest = Denoising.loss
    monkeypatch.setattr(Denoising, "loss", lambda self, phase, batch, ctx: honest(self, phase, batch, plain(ctx)))

    def plain(ctx: StepContext) -> StepContext:
        return Elsewhere(ctx.roles, ctx.process, ctx.generators, ctx.device)

    with pytest.raises(AssertionError, match=r"phase 'train' is not reduced by ctx\.mean"):
        check_objective("denoising", processes=("masked",))
    monkeypatch.setattr(Denoising, "per_token", False)
    check_objective("denoising", processes=("masked",), steps=2)

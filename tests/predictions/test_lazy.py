"""Values of tokens wait for the sum that they are part of, and are the tensor that they are to all else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fewstep.objectives.base import Batch
from fewstep.predictions.base import rowwise
from fewstep.predictions.lazy import LazyValues
from fewstep.predictions.network import HeadPrediction

B, L, V, D = 2, 3, 5, 4


class Counted(nn.Linear):
    """A head that counts its calls; it is no plain linear layer, so every pass calls it."""

    calls = 0

    def forward(self, hidden: Tensor) -> Tensor:
        Counted.calls += 1
        return super().forward(hidden)


@pytest.fixture
def prediction() -> HeadPrediction:
    torch.manual_seed(0)
    Counted.calls = 0
    hidden = torch.randn(B, L, D).requires_grad_()
    return HeadPrediction(hidden, Counted(D, V), V, torch.zeros(B, L).long(), torch.rand(B, L) < 0.7)


IDS = torch.arange(B * L).view(B, L) % V
CONSTANT = torch.rand(B, L)


def test_a_sum_and_its_metric_take_one_pass(prediction: HeadPrediction) -> None:
    values = prediction.nll(IDS)
    weighted = (0.5 * CONSTANT * values + values / 2 - CONSTANT).masked_fill(IDS == 1, 0.0)
    assert isinstance(weighted, LazyValues)
    assert Counted.calls == 0
    loss = weighted.sum()
    metric = values.detach().sum()
    loss.backward()
    assert Counted.calls == 1
    dense = prediction.nll(IDS).detach()
    expected = (0.5 * CONSTANT * dense + dense / 2 - CONSTANT).masked_fill(IDS == 1, 0.0)
    torch.testing.assert_close(loss.detach(), expected.sum())
    torch.testing.assert_close(metric, dense.sum())


@pytest.mark.parametrize(
    "read",
    [
        lambda v: v.exp(),
        lambda v: v.sum(1),
        lambda v: torch.stack([v, v]),
        lambda v: v[0],
        lambda v: v * v,
        lambda v: 1 - v,
        lambda v: 1 / (1 + v),
        lambda v: v * torch.ones(4, B, L),
        lambda v: v.masked_fill(v > 1, 2.0),
        lambda v: v.to(torch.float64).sum(),
        lambda v: torch.where(v > 1, v, 0.0),
        lambda v: v.mean(dim=0),
        lambda v: sum([v, v]),
        lambda v: v.mean(),
        lambda v: torch.mean(v),
        lambda v: -(v - 2 * v).sum(),
    ],
)
def test_anything_else_reads_the_tensor(prediction: HeadPrediction, read) -> None:  # type: ignore[no-untyped-def]
    rows = prediction.log_probs(torch.ones(B, L, dtype=torch.bool)).view(B, L, V)
    dense = -rows.gather(2, IDS[..., None])[..., 0] * prediction.where
    found, expected = read(prediction.nll(IDS)), read(dense)
    torch.testing.assert_close(found + 0, expected)
    grads = [torch.autograd.grad((x + 0).sum(), prediction.hidden, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(*grads)


def test_weights_with_a_gradient_get_it(prediction: HeadPrediction) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    (weight * prediction.nll(IDS)).sum().backward()
    torch.testing.assert_close(weight.grad, prediction.nll(IDS).detach().sum())


def test_without_gradients_it_is_computed_at_once(prediction: HeadPrediction) -> None:
    pending = prediction.nll(IDS)
    with torch.no_grad():
        assert type(prediction.nll(IDS)) is Tensor
        assert not pending.sum().requires_grad
    assert pending.sum().requires_grad


def test_means_of_a_batch_stay_lazy(prediction: HeadPrediction) -> None:
    text = torch.ones(B, L, dtype=torch.bool)
    text[0, 2] = False
    for batch in (Batch(IDS), Batch(IDS, text=text, implied=~text)):
        for where in (None, IDS == 1):
            before = Counted.calls
            mean = batch.mean(CONSTANT * prediction.nll(IDS), where)
            mean.backward()
            assert Counted.calls == before + 1
            expected = batch.mean(CONSTANT * prediction.nll(IDS).detach(), where)
            torch.testing.assert_close(mean.detach(), expected)


def test_a_row_without_a_finite_value_does_not_reach_a_mean_that_leaves_it_out(prediction: HeadPrediction) -> None:
    values = rowwise(lambda p, x: p[:, 0] / x, [prediction], [(IDS != 0).float()], where=torch.ones(B, L) > 0)
    assert torch.isfinite(values.masked_fill(IDS == 0, 0.0).sum())

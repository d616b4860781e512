"""Weighted sums of values of rows: gradients formed in the forward pass equal those of autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fewstep.objectives.matching.losses import CrossEntropyLoss, SquaredErrorLoss
from fewstep.objectives.parts.divergence import divergence
from fewstep.predictions import base as prediction_module
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.lazy import read
from fewstep.predictions.network import HeadPrediction
from fewstep.predictions.shaping import lowered_top_p, temperature, top_p
from fewstep.predictions.sides import Head

B, L, V, D = 3, 5, 7, 4

Loss = Callable[[list[Prediction], Tensor], Tensor]

LOSSES: dict[str, Loss] = {
    "nll": lambda p, x: p[0].nll(x),
    "entropy": lambda p, x: p[0].entropy(),
    "cross_entropy": lambda p, x: p[0].cross_entropy(p[1]),
    "student": lambda p, x: CrossEntropyLoss().student(p[0], p[1], p[2]),
    "hard_fit": lambda p, x: CrossEntropyLoss().fit(x, p[0], p[1], 0.5),
    "soft_fit": lambda p, x: CrossEntropyLoss().fit(p[2], p[0], p[1], 0.5),
    "squared_student": lambda p, x: SquaredErrorLoss().student(p[0], p[1], p[2]),
    "squared_fit": lambda p, x: SquaredErrorLoss().fit(x, p[0], p[1], 0.5),
    "reverse_kl": lambda p, x: divergence("reverse_kl", p[0], p[1], p[0].where),
    "forward_kl": lambda p, x: divergence("forward_kl", p[0], p[1], p[0].where),
    "jeffreys": lambda p, x: divergence("jeffreys", p[0], p[1], p[0].where),
    "total_variation": lambda p, x: divergence("total_variation", p[0], p[1], p[0].where),
    "squared_error": lambda p, x: divergence("squared_error", p[0], p[1], p[0].where),
    "both": lambda p, x: CrossEntropyLoss().student(p[0], p[1], p[2]) + CrossEntropyLoss().fit(p[0], p[1], p[2], 0.5),
    "twice": lambda p, x: p[0].nll(x) + p[0].entropy() + p[1].nll(x),
    "own": lambda p, x: rowwise(
        lambda a, b, c, i: (a * b.exp() - c).square().mean(1) * i, p, [x.to(torch.float64)], where=p[0].where
    ),
}


@pytest.fixture(params=[100, 2], ids=["whole", "chunked"], autouse=True)
def chunking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_module, "CHUNK_ELEMENTS", request.param * V)


class Setting:
    """Three predictions of the same tokens with networks of their own, and everything that gets gradient."""

    def __init__(
        self, head: Callable[[], nn.Module] = lambda: nn.Linear(D, V), *, dtype: torch.dtype = torch.float64
    ) -> None:
        torch.manual_seed(0)
        self.heads = [head().to(dtype) for _ in range(3)]
        self.hidden = [torch.randn(B, L, D, dtype=dtype).requires_grad_() for _ in range(3)]
        self.where, known = torch.rand(B, L) < 0.6, torch.randint(V, (B, L))
        self.weights, self.ids = torch.rand(B, 1, dtype=dtype), torch.randint(V, (B, L))
        pairs = zip(self.hidden, self.heads, strict=True)
        self.predictions: list[Prediction] = [HeadPrediction(h, head, V, known, self.where) for h, head in pairs]

    @property
    def inputs(self) -> list[Tensor]:
        return [*self.hidden, *(p for head in self.heads for p in head.parameters())]

    def derivatives(self, values: Tensor) -> list[Tensor]:
        """Weighted sum, and its gradients by `inputs`."""
        total = (self.weights * values).sum()
        grads = torch.autograd.grad(total, self.inputs, materialize_grads=True)
        return [total.detach(), *grads]


def same(values: Callable[[], Tensor], setting: Setting, *, tolerance: float = 1e-12) -> None:
    """Lazy values, summed, equal the tensor that autograd differentiates."""
    lazy, whole = setting.derivatives(values()), setting.derivatives(read(values()))  # type: ignore[arg-type]
    for a, b in zip(lazy, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_autograd(name: str) -> None:
    setting = Setting()
    same(lambda: LOSSES[name](setting.predictions, setting.ids), setting)


@pytest.mark.parametrize("name", LOSSES)
def test_in_float32_they_agree_to_rounding(name: str) -> None:
    setting = Setting(dtype=torch.float32)
    same(lambda: LOSSES[name](setting.predictions, setting.ids), setting, tolerance=2e-6)


@pytest.mark.parametrize(
    "row_map", [temperature(0.7), top_p(0.8), lowered_top_p(0.8, 2.0)], ids=["temperature", "top_p", "lowered_top_p"]
)
def test_shaped_rows(row_map: Callable[[Tensor], Tensor]) -> None:
    setting = Setting()
    shaped = [p.shaped(row_map) for p in setting.predictions]
    same(lambda: shaped[0].entropy(), setting)
    same(lambda: CrossEntropyLoss().fit(shaped[2], setting.predictions[0], shaped[1], 0.5), setting)
    same(lambda: shaped[0].cross_entropy(shaped[0]), setting)


@pytest.mark.parametrize(
    "head",
    [
        lambda: nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, V)),
        lambda: nn.Linear(D, V, bias=False),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(D, V)),
        lambda: hooked(nn.Linear(D, V)),
    ],
    ids=["two_layers", "no_bias", "weight_norm", "hook"],
)
@pytest.mark.parametrize("name", ["nll", "student", "own"])
def test_other_heads(head: Callable[[], nn.Module], name: str) -> None:
    setting = Setting(head)
    same(lambda: LOSSES[name](setting.predictions, setting.ids), setting)


def hooked(head: nn.Linear) -> nn.Linear:
    """A head whose hook changes its output."""
    head.register_forward_hook(lambda module, inputs, logits: 2 * logits.tanh())
    return head


def test_tokens_that_the_trained_prediction_carries_over_get_no_gradient() -> None:
    setting = Setting()
    p, q, _ = setting.predictions
    everywhere = torch.ones_like(setting.where)
    for values in (
        lambda: rowwise(prediction_module._NLL, [p], [p.known], where=everywhere),
        lambda: rowwise(prediction_module._CROSS_ENTROPY, [p, p], where=everywhere),
        lambda: rowwise(lambda a, b: (a.exp() * b.exp()).sum(1), [p, q], where=everywhere),
    ):
        same(values, setting)


def test_parameters_that_the_function_reads_get_their_gradient() -> None:
    setting = Setting()
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    double = 2 * scale
    (p, *_), ids = setting.predictions, [setting.ids]

    def value(a: Tensor, x: Tensor) -> Tensor:
        return -double * scale * a.gather(1, x[:, None])[:, 0]

    lazy = torch.autograd.grad(rowwise(value, [p], ids, where=p.where).sum(), [scale, setting.hidden[0]])
    whole = torch.autograd.grad(read(rowwise(value, [p], ids, where=p.where)).sum(), [scale, setting.hidden[0]])  # type: ignore[arg-type]
    for a, b in zip(lazy, whole, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["nll", "student", "soft_fit", "jeffreys", "own"])
def test_first_and_second_derivatives(name: str) -> None:
    setting = Setting()
    frozen = [setting.predictions[1].shaped(Tensor.detach), setting.predictions[2].shaped(Tensor.detach)]

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head = nn.Linear(D, V)
        head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
        head.__dict__["_parameters"] = {"weight": weight, "bias": bias}
        first = HeadPrediction(hidden, head, V, setting.predictions[0].known, setting.where)
        return (setting.weights * LOSSES[name]([first, *frozen], setting.ids)).sum()

    inputs = [setting.hidden[0], *setting.heads[0].parameters()]
    # A second pass adds in another order, hence the tolerance.
    assert torch.autograd.gradcheck(loss, inputs, nondet_tol=1e-12, fast_mode=True)
    if name not in ("student", "soft_fit"):  # their definition detaches the other rows, so it is the function itself
        assert torch.autograd.gradgradcheck(loss, inputs, nondet_tol=1e-12, fast_mode=True)


def test_a_second_backward_pass_gives_the_same_gradient() -> None:
    setting = Setting()
    total = setting.predictions[0].nll(setting.ids).sum()
    first = torch.autograd.grad(total, setting.hidden[0], retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(total, setting.hidden[0])[0], first)


def test_the_head_of_a_bfloat16_training_sums_its_gradient_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64 chunks; a sum in bfloat16 is 7e-3 away."""
    vocab, rows, width = 512, 2048, 32
    monkeypatch.setattr(prediction_module, "CHUNK_ELEMENTS", vocab * rows // 64)
    torch.manual_seed(0)
    hidden, head = torch.randn(1, rows, width), nn.Linear(width, vocab)
    ids, where = torch.randint(vocab, (1, rows)), torch.ones(1, rows, dtype=torch.bool)
    exact = torch.autograd.grad(
        nn.functional.cross_entropy(nn.functional.linear(hidden[0].double(), head.weight.double()), ids[0]), head.weight
    )[0]
    nn.init.zeros_(head.bias)
    with torch.autocast("cpu", torch.bfloat16):
        loss = HeadPrediction(hidden, head, vocab, ids, where).nll(ids).mean()
    (found,) = torch.autograd.grad(loss, head.weight)
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 3e-3


@pytest.mark.parametrize(("name", "count"), [("student", 3), ("soft_fit", 3), ("both", 3), ("twice", 3)])
def test_losses_in_one_sum_share_rows(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """D-MMD's losses of both players read three networks: three products of heads a chunk, not six.

    Two losses of one network go one after the other.
    """
    setting, parts, plain = Setting(), list[slice](), Head.log_probs
    monkeypatch.setattr(Head, "log_probs", lambda side, part: parts.append(part) or plain(side, part))
    (LOSSES[name](setting.predictions, setting.ids) * setting.weights).mean()
    assert len(parts) == count * len(set(map(str, parts)))

"""The gradient of two draws is unbiased, and each head gets it from where it should."""

from __future__ import annotations

import torch
from exact_orders import all_states, masked, nodes, pair_source, state_probs
from fewstep_orders.exponents import ExponentClock, Family, velocity
from fewstep_orders.loss import order_loss
from fewstep_orders.network import OrderedDenoiser
from torch import Generator, Tensor

from fewstep import BACKBONES
from fewstep.backbones.base import TokenSpace

LOW = 0.02
"""Smallest time, which bounds the noise of the estimates."""
FAMILY = Family(0.7, 0.65)


class Tables:
    """A forward score for each sequence of two binary tokens, and reverse scores and rows for each state."""

    def __init__(self) -> None:
        rng = Generator().manual_seed(3)
        shapes = {"phi": (4, 2), "psi": (9, 2), "theta": (9, 2, 2)}
        self.parameters = {
            name: torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
            for name, shape in shapes.items()
        }

    def forward(self, x: Tensor) -> Tensor:
        return FAMILY.exponents(self.parameters["phi"][2 * x[:, 0] + x[:, 1]])

    def reverse(self, z: Tensor) -> Tensor:
        return FAMILY.exponents(self.parameters["psi"][3 * z[:, 0] + z[:, 1]])

    def nll(self, x: Tensor, z: Tensor) -> Tensor:
        rows = self.parameters["theta"][3 * z[:, 0] + z[:, 1]].log_softmax(-1)
        return -rows.gather(-1, x[..., None])[..., 0].masked_fill(z != 2, 0.0)

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values())), strict=True))


def enumerated(tables: Tables, *, score: bool = True) -> dict[str, Tensor]:
    """Gradients of the bound over times above `LOW`, by enumeration of states and quadrature over times.

    Args:
        score: whether the probabilities of the states have gradients too; False leaves the pathwise part.
    """
    x, z, log_q = all_states(pair_source())
    (t, width), hidden = nodes(LOW), z == 2
    e, r = tables.forward(x), tables.reverse(z)
    rates, reverse = e / t[:, None, None], r / t[:, None, None]
    values = rates * tables.nll(x, z) + (rates * (rates / reverse).log() - rates + reverse)
    losses = values.masked_fill(~hidden, 0.0).sum(-1)
    probs = state_probs(hidden, e, t)
    weights = width[:, None] / (1 - LOW) * log_q.exp() * (probs if score else probs.detach())
    return tables.gradients((weights * losses).sum())


def estimated(tables: Tables, count: int, rng: Generator) -> dict[str, Tensor]:
    """Gradients by one batch of `count` samples."""
    process, x = masked(2), pair_source().draw(count, rng)
    t = LOW + (1 - LOW) * torch.rand(count, generator=rng, dtype=torch.float64)
    forward, twice = tables.forward(x), x.repeat(2, 1)
    z = process.corrupt(twice, ExponentClock(forward.detach())(t).repeat(2, 1), generator=rng).x_t
    rows = [tables.nll(twice, z), z == 2]
    loss = order_loss(
        process, forward, tables.reverse(z), *rows, t, lambda values: values.sum(1).mean(), dtype=torch.float64
    ).loss
    return tables.gradients(loss)


def test_the_gradient_is_unbiased() -> None:
    """Against enumeration and quadrature, z < 4 for each of 62 parameters."""
    tables, rng = Tables(), Generator().manual_seed(0)
    exact = enumerated(tables)
    batches = [estimated(tables, 12_000, rng) for _ in range(30)]
    for name, expected in exact.items():
        values = torch.stack([batch[name] for batch in batches])
        error = values.std(0) / len(batches) ** 0.5
        z = (values.mean(0) - expected).abs() / error.clamp_min(1e-9)
        assert float(z.max()) < 4, (name, z)
        assert float(error.max()) < 0.1 * float(expected.norm()), name  # the estimate is sharp enough to tell


def test_the_pathwise_part_alone_is_wrong() -> None:
    """What the heads would get without the score: wrong by more than half of the gradient's norm."""
    tables, rng = Tables(), Generator().manual_seed(0)
    expected = enumerated(tables)["phi"]
    pathwise = enumerated(tables, score=False)["phi"]
    assert float((pathwise - expected).norm()) > 0.5 * float(expected.norm())
    mean = torch.stack([estimated(tables, 12_000, rng)["phi"] for _ in range(30)]).mean(0)
    assert float((mean - expected).norm()) < 0.1 * float(expected.norm())


def network(family: Family, length: int = 6) -> OrderedDenoiser:
    torch.manual_seed(0)
    process = masked(4)
    tokens = TokenSpace(process.num_states, 4, length)
    built = OrderedDenoiser(
        BACKBONES.build({"type": "transformer", "width": 16, "depth": 1, "heads": 2}, tokens=tokens), process
    )
    built.take_order(family)
    torch.nn.init.normal_(built.backbone.absolute.weight)  # type: ignore[union-attr]  # new networks have no positions
    for head in (built.forward_head, built.reverse_head):
        if head is not None:
            torch.nn.init.normal_(head.out.weight)
    return built


def test_the_heads_do_not_move_the_backbone() -> None:
    """The backbone's gradient is that of the weighted cross entropy; each head gets one of its own."""
    student, rng = network(FAMILY), Generator().manual_seed(0)
    x, t = torch.randint(4, (32, 6), generator=rng), torch.rand(32, generator=rng) * 0.9 + 0.1
    forward, twice = student.forward_exponents(x), x.repeat(2, 1)
    z = student.process.corrupt(twice, ExponentClock(forward.detach())(t).repeat(2, 1), generator=rng).x_t
    prediction = student(z, t.repeat(2))
    assert isinstance(prediction.clock, ExponentClock)
    reverse = prediction.clock.exponents
    parts = [forward, reverse, prediction.nll(twice), prediction.where, t]
    order_loss(masked(4), *parts, lambda values: values.mean()).loss.backward()  # type: ignore[arg-type]
    own = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert own.keys() == dict(student.named_parameters()).keys()
    student.zero_grad()
    rate = velocity(masked(4).schedule, forward.detach().repeat(2, 1), t.repeat(2)).float()
    (rate * student(z, t.repeat(2)).nll(twice)).mean().backward()
    for name, parameter in student.backbone.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(own[f"backbone.{name}"], parameter.grad, rtol=1e-4, atol=1e-7), name
    assert all(
        p.grad is None or not p.grad.any()
        for head in (student.forward_head, student.reverse_head)
        for p in head.parameters()
    )  # type: ignore[union-attr]

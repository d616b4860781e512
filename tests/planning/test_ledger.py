"""Memory and FLOPs of steps that are followed by sizes alone."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from fewstep.planning.ledger import Ledger


def followed() -> tuple[FakeTensorMode, Ledger]:
    return FakeTensorMode(allow_non_fake_inputs=True), Ledger()


def test_the_peak_is_of_what_lives_at_once() -> None:
    mode, ledger = followed()
    with mode, ledger:
        a = torch.empty(1000)
        b = a + 1
        del a
        c = b.double()
        del b
        view = c[:10]
        del c
    assert sum(ledger.peak().values()) == 4000 + 8000
    assert view.shape == (10,)


def test_a_copy_within_an_operator_counts() -> None:
    mode, ledger = followed()
    with mode, ledger:
        rows = torch.empty(10, 100)
        sums = rows.logsumexp(1)
    assert sum(ledger.peak().values()) == 2 * 4000
    assert sums.shape == (10,)


def test_parts_and_shares() -> None:
    mode, ledger = followed()
    with mode, ledger:
        first = torch.empty(1000)
        with ledger.during("activations"):
            second = torch.empty(500)
        ledger.assign([second], "gradients")
    assert ledger.peak() == {"loss": 4000, "gradients": 2000}
    assert ledger.peak({"gradients": 0.25}) == {"loss": 4000, "gradients": 500}
    assert len(first) > len(second)


def test_what_is_known_beforehand_is_left_out() -> None:
    mode, ledger = followed()
    with mode:
        weight = torch.empty(100, 100, requires_grad=True)
        ledger.known([weight])
        with ledger:
            loss = (weight.t() @ weight.detach()).sum()
            loss.backward()
            assert weight.grad is not None
            ledger.assign([weight.grad], "gradients")
    assert ledger.peak()["gradients"] == 40_000


def test_flops_of_products() -> None:
    mode, ledger = followed()
    with mode, ledger:
        a, b = torch.empty(3, 5), torch.empty(5, 7)
        torch.empty(3, 7).addmm_(a, b)
        assert ledger.flops == 2 * 3 * 5 * 7
        torch.nn.Linear(5, 7)(a)
        assert ledger.flops == 2 * (2 * 3 * 5 * 7)


def test_flops_of_attention_forward_and_backward() -> None:
    mode, ledger = followed()
    batch, heads, length, channels = 2, 3, 16, 8
    with mode, ledger:
        q, k, v = (torch.empty(batch, heads, length, channels, requires_grad=True) for _ in range(3))
        out = F.scaled_dot_product_attention(q, k, v)
        product = 2 * batch * heads * length**2 * channels
        assert ledger.flops == 2 * product
        out.sum().backward()
    assert ledger.flops == 7 * product

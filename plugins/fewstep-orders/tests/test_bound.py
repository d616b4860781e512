"""The bound is exact where conditionals are, for every order; what else it costs has closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from exact_orders import OnlyChecks, Ordered, all_states, constant, masked, nodes, pair_source, state_probs
from fewstep_orders.bounds import order_bound
from fewstep_orders.keys_and_checks import KeysAndChecks
from fewstep_orders.loss import order_loss
from torch import Tensor

from fewstep.denoisers.exact import exact_denoiser
from fewstep.grids.base import GRIDS
from fewstep.likelihood.bounds import bound
from fewstep.runtime.streams import SampleStreams

PAIRS = [(1.0, 1.0), (0.7, 0.7), (1.35, 0.05), (0.3, 2.0), (0.5, 0.9)]


def integral(forward: tuple[float, ...], reverse: tuple[float, ...], nll: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """The loss at all times, states and sequences, weighted with their probabilities: the bound's mean over data.

    `order_loss` reads two draws of each sample; here both are the same state, at half the weight each.
    """
    source, process = pair_source(), masked(2)
    (t, width), hidden = nodes(), z == 2
    exponents = constant(*forward)(x)
    weights = width[:, None] * state_probs(hidden, exponents, t) * source.log_likelihood(x).exp()
    count = len(t)
    rows = weights.flatten().repeat(2)[:, None] / 2
    return order_loss(
        process,
        exponents.repeat(count, 1),
        constant(*reverse)(x).repeat(2 * count, 1),
        nll.repeat(2 * count, 1),
        hidden.repeat(2 * count, 1),
        t.repeat_interleave(len(x)),
        lambda values: (rows * values).sum(),
        dtype=torch.float64,
    ).loss


def exact_nll(x: Tensor, z: Tensor) -> Tensor:
    oracle = exact_denoiser(pair_source(), masked(2))
    with torch.no_grad():
        return oracle(z, torch.full((len(z),), 0.5)).nll(x)


@pytest.mark.parametrize("exponents", PAIRS)
def test_with_exact_conditionals_the_bound_is_the_entropy_for_any_order(exponents: tuple[float, float]) -> None:
    x, z, log_q = all_states(pair_source())
    entropy = -(log_q.exp() * log_q)[:: 2**2].sum()
    assert abs(integral(exponents, exponents, exact_nll(x, z), x, z) - entropy) < 1e-6


@pytest.mark.parametrize(("forward", "reverse"), [(PAIRS[2], PAIRS[0]), (PAIRS[0], PAIRS[4]), (PAIRS[4], PAIRS[3])])
def test_another_reverse_velocity_costs_its_closed_form(
    forward: tuple[float, float], reverse: tuple[float, float]
) -> None:
    x, z, _ = all_states(pair_source())
    expected = sum(math.log(e / r) - 1 + r / e for e, r in zip(forward, reverse, strict=True))
    assert abs(integral(forward, reverse, torch.zeros_like(x).double(), x, z) - expected) < 1e-6


def test_the_estimate_is_the_core_s_without_a_clock_and_the_entropy_with_one() -> None:
    source = pair_source(4)
    process, x = masked(2, 1e-4), source.draw(2000, torch.Generator().manual_seed(0))
    oracle, times = exact_denoiser(source, process), GRIDS.build("linear").times(256)
    plain = order_bound(oracle, x[:64], times, SampleStreams(0, range(64)), evaluations=8)
    core = bound(oracle, x[:64], times, SampleStreams(0, range(64)), evaluations=8)
    assert torch.allclose(plain.nats, core, rtol=1e-9)

    ordered = Ordered(exact_denoiser(source, masked(2)), constant(1.3, 0.2, 0.7, 0.6))
    nats = order_bound(ordered, x, times, SampleStreams(1, range(len(x))), evaluations=8).nats
    loss = (nats + source.log_likelihood(x)).numpy()
    assert (
        abs(loss.mean()) < 5 * loss.std() / len(x) ** 0.5 + 0.01
    )  # .01: tokens that one of 256 steps reveals together


@pytest.mark.parametrize(("key", "check"), [(1.0, 1.0), (0.7, 0.7), (1.35, 0.05)])
def test_a_network_that_knows_only_checks_of_two_keys_loses_by_the_order(key: float, check: float) -> None:
    """A check costs ln V unless it comes last of three: 11.1 nats in a uniform order, .9 in the extreme one."""
    source = KeysAndChecks(KeysAndChecks.Config(size=8, held_out=1000))
    exponents = torch.where(source.is_key, key, check).double()
    denoiser = Ordered(OnlyChecks(source, masked(8)), lambda x: exponents.expand(x.shape))
    assert source.held_out is not None
    x, times = source.held_out[:], GRIDS.build("linear").times(1024)
    last = 1 - 2 * check / (key + check) + check / (2 * key + check)
    expected = source.entropy + 8 * (1 - last) * math.log(8)
    out = order_bound(denoiser, x, times, SampleStreams(0, range(len(x))), evaluations=32)
    assert float(out.mismatch.abs().max()) < 1e-9
    assert abs(float(out.nats.mean()) - expected) < 5 * float(out.nats.std()) / len(x) ** 0.5 + 0.02
    assert abs(expected - source.entropy - {1.0: 11.09, 0.7: 11.09, 1.35: 0.885}[key]) < 0.005


def test_the_forward_clock_of_a_sample_may_depend_on_it() -> None:
    """The noising of each sample has an order of its own; the reverse clock cannot know it, and pays."""
    source, process = pair_source(3), masked(2)
    x = source.draw(3000, torch.Generator().manual_seed(2))

    def first_symbol(x0: Tensor) -> Tensor:
        return torch.where(x0[:, :1] == 0, torch.tensor([1.2, 0.4, 0.5]), torch.tensor([0.5, 0.4, 1.2])).double()

    ordered = Ordered(exact_denoiser(source, process), first_symbol, constant(0.85, 0.4, 0.85))
    times = GRIDS.build("linear").times(256)
    out = order_bound(ordered, x, times, SampleStreams(3, range(len(x))), evaluations=8)
    excess = out.nats + source.log_likelihood(x)
    error = float(excess.std()) / len(x) ** 0.5
    assert float(excess.mean()) > 5 * error
    assert float(out.mismatch.mean()) > 0

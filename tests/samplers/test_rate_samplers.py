"""Samplers of the reverse jump process: rates and rows by enumeration, laws of one step, and convergence.

Statistical tests fail by chance about once in a billion runs (six standard deviations), and their seeds are fixed.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from enumerable_denoisers import TimedOracle
from noised_laws import counts, distance, kernel, law_at, level, noised, walked
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.samplers.analytic import tweedie_rows
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.euler import EulerSampler
from fewstep.samplers.rates import jump, ratios, speed
from fewstep.samplers.tau_leaping import TauLeapingSampler
from fewstep.testing.statistics import assert_same_distribution

V = 3
LAW = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
BOTH = pytest.mark.parametrize("name", ["masked", "uniform"])
RATES = pytest.mark.parametrize("sampler", ["euler", "tau_leaping"])


def process_of(name: str, eps: float = 1e-4) -> DiscreteProcess:
    return PROCESSES.build({"type": name, "schedule": {"type": "linear", "eps": eps}}, vocab_size=V)


def states(process: DiscreteProcess) -> list[int]:
    """States in which a token is predicted."""
    return [V] if process.carry_over else list(range(V))


def posterior(process: DiscreteProcess, z: int, t: float) -> Tensor:
    """p(x | z_t) of one token of the law LAW, float64 [V]."""
    joint = LAW * kernel(process, level(process.schedule, t))[:V, z]
    return joint / joint.sum()


def enumerated_rates(process: DiscreteProcess, p: Tensor, z: int, t: float) -> Tensor:
    """Rate of z -> y, y != z, float64 [S]: forward rate of y -> z times E_{x ~ p}[q_t(y | x) / q_t(z | x)]."""
    time = torch.tensor(t, dtype=torch.float64)
    alpha, slope = float(process.schedule.alpha(time)), float(process.schedule.alpha_prime(time))
    q = kernel(process, alpha)[:V]
    forward = -slope / alpha * kernel(process, 0.0)[:, z]
    rates = forward * (p[:, None] * q / q[:, z, None]).sum(0)
    rates[z] = 0.0
    return rates


def ratio_rows(p: Tensor, z: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    """r(y) [N, V] from the two numbers of each row; r(z) = 1."""
    base, slope = ratios(p.gather(1, z[:, None])[:, 0], alpha, noise, p.shape[1])
    return (base[:, None] + slope[:, None] * p).scatter(1, z[:, None], 1.0)


@pytest.mark.parametrize("alpha", [0.0, 1e-9, 0.3, 0.99])
def test_ratios_are_those_of_enumeration(alpha: float) -> None:
    process, rng = process_of("uniform"), Generator().manual_seed(0)
    q = kernel(process, alpha)
    p = torch.rand(5, V, generator=rng, dtype=torch.float64)
    p /= p.sum(1, keepdim=True)
    for z in range(V):
        levels = (torch.full((5,), value, dtype=torch.float64) for value in (alpha, 1 - alpha))
        got = ratio_rows(p, torch.full((5,), z), *levels)
        torch.testing.assert_close(got, p @ (q / q[:, z, None]), rtol=1e-9, atol=1e-12)
        assert bool((got[:, z] == 1).all())


@BOTH
@pytest.mark.parametrize("t", [0.9, 0.5, 0.1])
def test_rates_carry_the_law_of_a_token_back_in_time(name: str, t: float) -> None:
    """Kolmogorov's equation: what flows into a state less what flows out is -dq_t/dt = -alpha' (q_0 - q_1)."""
    process = process_of(name)
    time = torch.tensor([t], dtype=torch.float64)
    size, alpha, noise = process.num_states, process.schedule.alpha(time), process.schedule.noise(time)
    rates = torch.zeros(size, size, dtype=torch.float64)
    for z in states(process):
        p = posterior(process, z, t)
        shares = p[None] if process.carry_over else ratio_rows(p[None], torch.tensor([z]), alpha, noise)
        rates[z, :V] = speed(process, time) * shares[0]
    rates = rates.fill_diagonal_(0.0)
    law = law_at(process, LAW, t)
    flow = law @ rates - law * rates.sum(1)
    change = -process.schedule.alpha_prime(time) * (LAW @ (kernel(process, 1.0) - kernel(process, 0.0))[:V])
    torch.testing.assert_close(flow, change, rtol=1e-9, atol=1e-12)


@BOTH
@RATES
@pytest.mark.parametrize(("t", "length"), [(0.9, 0.1), (0.5, 0.02), (0.2, 0.15)])
def test_one_step_moves_as_the_rates_say(name: str, sampler: str, t: float, length: float) -> None:
    """Any prediction: the law of a jump from each state, against rates summed over x."""
    process, chance = process_of(name), {"euler": EulerSampler.chance, "tau_leaping": TauLeapingSampler.chance}[sampler]
    p, many = torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64), 20_000
    for z in states(process):
        rates = enumerated_rates(process, p, z, t)
        move = chance(length * rates.sum())
        law = (move * rates / rates.sum()).index_put((torch.tensor([z]),), 1 - move)
        x = torch.full((many, 1), z)
        prediction = TablePrediction(p.log().expand(many, 1, V), x, process.to_predict(x))
        times = torch.full((many,), t, dtype=torch.float64)
        out = jump(process, prediction, x, times, length, chance, generator=Generator().manual_seed(z))
        assert_same_distribution(counts(out, process.num_states), law, f"jump from {z}")


@BOTH
@pytest.mark.parametrize("chance", [EulerSampler.chance, TauLeapingSampler.chance])
def test_short_steps_are_those_of_the_posterior(name: str, chance: Any) -> None:
    """One token: 1 + h R differs from q(z_s | z_t) by O(h^2), so half the step has a quarter of the error."""
    process, t = process_of(name), 0.6

    def error(h: float) -> float:
        worst = 0.0
        for z in states(process):
            p = posterior(process, z, t)
            rates = enumerated_rates(process, p, z, t)
            move = chance(h * rates.sum())
            row = (move * rates / rates.sum()).index_put((torch.tensor([z]),), 1 - move)
            times = [torch.tensor([value], dtype=torch.float64) for value in (t, t - h)]
            exact = tweedie_rows(process, p.log()[None], torch.tensor([z]), *times)[0]
            worst = max(worst, float((row - exact).abs().max()))
        return worst

    assert error(0.04) < 0.01
    if not (process.carry_over and chance is EulerSampler.chance):  # with a linear schedule that one is exact
        assert error(0.02) / error(0.01) == pytest.approx(4, rel=0.15)


def test_the_speed_is_finite_where_no_data_is_left() -> None:
    """alpha = 0: tokens of the uniform process jump for certain, and to new noise."""
    process, many = process_of("uniform", eps=0.0), 20_000
    x = torch.zeros(many, 1, dtype=torch.long)
    prediction = TablePrediction(LAW.log().expand(many, 1, V), x, process.to_predict(x))
    ends = torch.ones(many, dtype=torch.float64)
    assert bool(speed(process, ends).isfinite().all())
    for chance in (EulerSampler.chance, TauLeapingSampler.chance):
        out = jump(process, prediction, x, ends, 0.1, chance, generator=Generator().manual_seed(0))
        assert_same_distribution(counts(out, V), torch.tensor([0, 0.5, 0.5]), "first jump")


@BOTH
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.8), (0.7, 0.3), (0.3, 0.29), (0.5, 0.0)])
@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_analytic_rows_are_the_mixture_of_posteriors(name: str, t: float, s: float, eps: float) -> None:
    process = process_of(name, eps)
    p = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], dtype=torch.float64)
    times = [torch.tensor([value, value], dtype=torch.float64) for value in (t, s)]
    for z in states(process):
        rows = tweedie_rows(process, p.log(), torch.tensor([z, z]), *times)
        of_x = [process.posterior_probs(torch.full((2, 1), x), torch.full((2, 1), z), *times)[:, 0] for x in range(V)]
        expected = sum(p[:, x, None] * of_x[x] for x in range(V))
        torch.testing.assert_close(rows, expected, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(rows.sum(1), torch.ones(2, dtype=torch.float64))
        assert bool((rows >= 0).all())


@BOTH
@pytest.mark.parametrize(("t", "s"), [(0.7, 0.3), (0.3, 0.29), (0.99, 0.5)])
def test_analytic_rows_are_those_of_tweedie(name: str, t: float, s: float) -> None:
    """[exp(-dsigma Q) r](i) exp(dsigma Q)(z, i), by exponentials of matrices."""
    process = process_of(name)
    alpha_t, alpha_s = level(process.schedule, t), level(process.schedule, s)
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    q = kernel(process, alpha_t)[:V]
    generator = (kernel(process, 0.0) - torch.eye(process.num_states, dtype=torch.float64)).T
    more = torch.tensor(alpha_s / alpha_t, dtype=torch.float64).log()
    for z in states(process):
        ratio = p @ (q / q[:, z, None])
        expected = (torch.matrix_exp(-more * generator) @ ratio) * torch.matrix_exp(more * generator)[z]
        times = [torch.tensor([value], dtype=torch.float64) for value in (t, s)]
        got = tweedie_rows(process, p.log()[None], torch.tensor([z]), *times)[0]
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12)


def test_analytic_masked_rows_are_ancestral() -> None:
    """[u p | 1 - u] with u = (alpha_s - alpha_t) / (1 - alpha_t)."""
    process = process_of("masked", eps=0.0)
    times = [torch.tensor([value], dtype=torch.float64) for value in (0.8, 0.6)]
    (row,) = tweedie_rows(process, LAW.log()[None], torch.tensor([V]), *times)
    torch.testing.assert_close(row, torch.cat((0.25 * LAW, torch.tensor([0.75], dtype=torch.float64))))


@BOTH
@pytest.mark.parametrize("sampler", ["ancestral", "analytic"])
def test_analytic_and_ancestral_steps_have_one_law(name: str, sampler: str) -> None:
    """A step of one token from each state, by draws: the row of the exact posterior."""
    process = process_of(name)
    oracle, t, s, many = TimedOracle(process, LAW), 0.8, 0.3, 20_000
    for z in states(process):
        start = torch.full((many, 1), z)
        out = walked(SAMPLERS.build(sampler), oracle, start, [t, s], Generator().manual_seed(z))  # type: ignore[arg-type]
        times = [torch.tensor([value], dtype=torch.float64) for value in (t, s)]
        law = tweedie_rows(process, posterior(process, z, t).log()[None], torch.tensor([z]), *times)[0]
        assert_same_distribution(counts(out, process.num_states), law, f"{sampler} from {z}")


@pytest.mark.parametrize("sampler", ["euler", "tau_leaping", "analytic"])
@BOTH
def test_one_token_from_pure_noise(name: str, sampler: str) -> None:
    """alpha runs from 0 to 1: the law of a token is the law of the data."""
    oracle = TimedOracle(process_of(name, eps=0.0), LAW)
    x = SAMPLERS.build(sampler).sample(oracle, 8000, steps=64, generator=Generator().manual_seed(1)).x
    assert_same_distribution(counts(x, V), LAW, f"{sampler}, {name}")


@pytest.mark.parametrize("sampler", ["euler", "tau_leaping", "analytic"])
@BOTH
def test_the_law_converges_with_the_steps(name: str, sampler: str) -> None:
    """A correlated source: total variation falls with the steps, down to what exact samples have."""
    source = Markov(Markov.Config(vocab_size=V, length=4, successors=1, smoothing=0.2, size=16))
    oracle, many = exact_denoiser(source, process_of(name)), 4000
    floor = distance(source.draw(many, Generator().manual_seed(0)), source)
    found = []
    for steps in (1, 4, 16, 96):
        out = SAMPLERS.build(sampler).sample(oracle, many, steps=steps, generator=Generator().manual_seed(steps))
        found.append(distance(out.x, source))
    assert found[0] > 5 * floor
    assert all(later < earlier for earlier, later in itertools.pairwise(found)), found
    assert found[-1] < 1.6 * floor, f"{found}, floor {floor}"


@BOTH
def test_a_correlated_law_in_the_middle_of_a_walk(name: str) -> None:
    """Exact z_t at t = 0.6, short steps of Euler, and z at 0.4 has the exact law."""
    source = Markov(Markov.Config(vocab_size=2, length=3, successors=1, smoothing=0.4, size=16))
    process, rng = PROCESSES.build(name, vocab_size=2), Generator().manual_seed(2)
    z = noised(process, source.draw(6000, rng), 0.6, rng)
    times = [0.6 - 0.2 * i / 40 for i in range(41)]
    out = walked(SAMPLERS.build("euler"), exact_denoiser(source, process), z, times, rng)  # type: ignore[arg-type]
    law = law_at(process, source.ngram_probs(3), 0.4).flatten()
    assert_same_distribution(counts(out, process.num_states), law, "euler from 0.6 to 0.4")

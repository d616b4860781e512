"""Conformance of processes: draws agree with computed probabilities, and both with Bayes' rule."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.core.registry import Raw
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.testing.continuous import certain, check_clock, check_continuous
from fewstep.testing.statistics import assert_same_distribution

_DRAWS = 20_000


def check_process(config: Raw, *, vocab_size: int = 4) -> None:
    """Assert that a process keeps the contract of `DiscreteProcess`, or of `Process` if its states are vectors.

    Args:
        config: name, mapping or config of a registered process.
        vocab_size: small, since symbols are enumerated.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    process = PROCESSES.build(config, vocab_size=vocab_size)
    if not isinstance(process, DiscreteProcess):
        check_continuous(process)
        return
    _check_corrupt(process)
    _check_corrupt_further(process)
    _check_prior(process)
    for t, s in ((0.9, 0.6), (0.5, 0.5 - 1 / 1024), (1.0, 0.7)):
        _check_posterior_is_bayes(process, t, s)
        _check_posterior_draws(process, t, s)
    _check_step_back_at_zero(process)
    for t in (0.2, 0.7, 1.0):
        _check_evidence(process, t)
    _check_shapes(process)
    _check_times_by_position(process)


def _marginal(process: DiscreteProcess, x0: Tensor, t: float) -> Tensor:
    """q(z_t | x) for each clean token: float64 [V, S], from alpha and the prior's distribution."""
    alpha = process.schedule.alpha(torch.tensor([t], dtype=torch.float64))
    prior = _prior_probs(process)
    clean = torch.nn.functional.one_hot(x0, process.num_states).double()
    return alpha * clean + (1 - alpha) * prior


def _prior_probs(process: DiscreteProcess) -> Tensor:
    probs = torch.zeros(process.num_states, dtype=torch.float64)
    if process.num_states > process.vocab_size:
        probs[process.vocab_size :] = 1 / (process.num_states - process.vocab_size)
    else:
        probs[:] = 1 / process.num_states
    return probs


def _check_corrupt(process: DiscreteProcess) -> None:
    rng = torch.Generator().manual_seed(1)
    tokens = torch.arange(process.vocab_size)
    for t in (0.0, 0.3, 0.8, 1.0):
        x0 = tokens.repeat(_DRAWS, 1)
        out = process.corrupt(x0, torch.full((_DRAWS,), t), generator=rng)
        assert (out.x_t[~out.noised] == x0[~out.noised]).all(), "tokens that are not noised must stay"
        for token in tokens:
            counts = torch.bincount(out.x_t[:, token], minlength=process.num_states)
            assert_same_distribution(counts, _marginal(process, token, t), f"corrupt at t={t}")
    soft = torch.rand(1, 1, process.vocab_size, dtype=torch.float64)
    soft /= soft.sum()
    samples = process.corrupt(soft.expand(_DRAWS, 1, -1), torch.full((_DRAWS,), 0.4), generator=rng).x_t
    probs = (soft[0, 0][:, None] * _marginal(process, tokens, 0.4)).sum(0)
    assert_same_distribution(torch.bincount(samples[:, 0], minlength=process.num_states), probs, "corrupt of soft data")


def _check_corrupt_further(process: DiscreteProcess) -> None:
    """q(z_t | z_s) after q(z_s | x) is q(z_t | x)."""
    rng = torch.Generator().manual_seed(6)
    tokens = torch.arange(process.vocab_size)
    for s, t in ((0.0, 0.3), (0.4, 0.4), (0.4, 0.7), (0.2, 1.0)):
        ends = [torch.full((_DRAWS,), v) for v in (s, t)]
        x_s = process.corrupt(tokens.repeat(_DRAWS, 1), ends[0], generator=rng).x_t
        x_t = process.corrupt_further(x_s, *ends, generator=rng)
        assert s < t or torch.equal(x_s, x_t), "tokens change although no time passes"
        for token in tokens:
            counts = torch.bincount(x_t[:, token], minlength=process.num_states)
            assert_same_distribution(counts, _marginal(process, token, t), f"corrupt to s={s}, then to t={t}")


def _check_prior(process: DiscreteProcess) -> None:
    drawn = process.prior((_DRAWS, 2), device="cpu", generator=torch.Generator().manual_seed(2))
    assert drawn.shape == (_DRAWS, 2)
    assert drawn.dtype == torch.long
    assert_same_distribution(torch.bincount(drawn[:, 0], minlength=process.num_states), _prior_probs(process), "prior")


def _joint(process: DiscreteProcess, x0: Tensor, t: float, s: float) -> Tensor:
    """q(z_s, z_t | x) by the Markov property of the forward process: float64 [S_s, S_t]."""
    alpha_t, alpha_s = (process.schedule.alpha(torch.tensor([time], dtype=torch.float64)) for time in (t, s))
    ratio = alpha_t / alpha_s
    step = ratio * torch.eye(process.num_states, dtype=torch.float64) + (1 - ratio) * _prior_probs(process)
    return _marginal(process, x0, s)[:, None] * step


def _check_posterior_is_bayes(process: DiscreteProcess, t: float, s: float) -> None:
    times = [torch.tensor([v], dtype=torch.float64) for v in (t, s)]
    for token in range(process.vocab_size):
        joint = _joint(process, torch.tensor(token), t, s)
        for state in range(process.num_states):
            evidence = joint[:, state].sum()
            if evidence <= 1e-12:
                continue
            probs = process.posterior_probs(torch.tensor([[token]]), torch.tensor([[state]]), *times)[0, 0]
            torch.testing.assert_close(probs, joint[:, state] / evidence, rtol=1e-9, atol=1e-12)


def _check_posterior_draws(process: DiscreteProcess, t: float, s: float) -> None:
    rng = torch.Generator().manual_seed(3)
    for token in (0, process.vocab_size - 1):
        for state in {0, process.vocab_size - 1, process.num_states - 1}:
            if _joint(process, torch.tensor(token), t, s)[:, state].sum() <= 1e-12:
                continue
            x0, x_t = torch.full((_DRAWS, 1), token), torch.full((_DRAWS, 1), state)
            times = [torch.full((_DRAWS,), v, dtype=torch.float64) for v in (t, s)]
            probs = process.posterior_probs(x0[:1], x_t[:1], *(v[:1] for v in times))[0, 0]
            samples = process.posterior_sample(x0, x_t, *times, generator=rng)
            assert_same_distribution(
                torch.bincount(samples[:, 0], minlength=process.num_states), probs, f"posterior {t}->{s}"
            )


def _check_step_back_at_zero(process: DiscreteProcess) -> None:
    """The last step, to s = 0, leaves only clean tokens if alpha(0) = 1."""
    alpha = process.schedule.alpha(torch.zeros(1, dtype=torch.float64))
    if alpha < 1:
        return
    x_t = process.prior((64, 3), device="cpu", generator=torch.Generator().manual_seed(4))
    table = torch.randn(64, 3, process.vocab_size).log_softmax(-1)
    prediction = TablePrediction(table, x_t, process.to_predict(x_t))
    ends = [torch.full((64,), v, dtype=torch.float64) for v in (0.5, 0.0)]
    out = process.step_back(x_t, prediction, *ends, generator=torch.Generator().manual_seed(5))
    assert (out < process.vocab_size).all(), "a step to s = 0 must leave clean tokens only"


def _check_evidence(process: DiscreteProcess, t: float) -> None:
    """q(z_t | x = c) for every c, up to a factor."""
    marginals = _marginal(process, torch.arange(process.vocab_size), t)
    reachable = marginals.sum(0) > 0
    states = torch.arange(process.num_states)[reachable]
    evidence = process.evidence(states[:, None], torch.full((len(states),), t, dtype=torch.float64))[:, 0]
    probs = marginals[:, reachable].T
    torch.testing.assert_close(
        evidence / evidence.sum(-1, keepdim=True), probs / probs.sum(-1, keepdim=True), rtol=1e-9, atol=1e-12
    )


def _check_times_by_position(process: DiscreteProcess) -> None:
    """With a time for each position, a step back is at each position the step back of that time."""
    x0, states = torch.zeros(_DRAWS, 2, dtype=torch.long), torch.full((_DRAWS, 2), process.num_states - 1)
    t, s = (torch.tensor(times, dtype=torch.float64).expand(_DRAWS, 2) for times in ((0.9, 0.5), (0.6, 0.2)))
    prediction = certain(process, x0, states)
    drawn = process.step_back(states, prediction, t, s, generator=torch.Generator().manual_seed(7))
    check_clock(process, x0, states)
    law = process.posterior_probs(x0[:1], states[:1], t[:1], s[:1])[0]
    for place in range(2):
        counts = torch.bincount(drawn[:, place], minlength=process.num_states)
        assert_same_distribution(counts, law[place], f"a step back at position {place} with times by position")


def _check_shapes(process: DiscreteProcess) -> None:
    x0 = torch.randint(process.vocab_size, (2, 5))
    by_token = torch.rand(2, 5)
    out = process.corrupt(x0, by_token, generator=None)
    assert out.x_t.shape == out.noised.shape == x0.shape, "times of shape [B, L] must be understood"
    assert process.to_predict(out.x_t).dtype == torch.bool

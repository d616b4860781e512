"""Bounds on the likelihood, where the likelihood is known: by enumeration, in closed form, and in the limit."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from enumerable_denoisers import LeaveOneOut, Table, TimedOracle
from noised_laws import kernel, level
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.grids.base import GRIDS
from fewstep.likelihood.bounds import bound, prior_divergence
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.runtime.streams import SampleStreams

V, L = 3, 3
LAW = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


def measured(denoiser: Denoiser, x: Tensor, steps: int, repeats: int = 1, seed: int = 0) -> Tensor:
    """Mean of estimates, nats a sample [N]."""
    times, rows = GRIDS.build("linear").times(steps), x.repeat(repeats, 1)
    found = bound(denoiser, rows, times, SampleStreams(seed, range(len(rows))))
    return found.view(repeats, len(x)).mean(0)


@pytest.mark.parametrize("process", ["masked", "uniform"])
@pytest.mark.parametrize("schedule", ["linear", "cosine_squared", "log_linear", "log"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_token_alone_has_its_exact_likelihood_on_average(process: str, schedule: str, steps: int) -> None:
    """Drawing x first from exact predictions is the true reverse process of a token: E_x[bound] is the entropy, up to
    what a schedule leaves of the signal at t = 1, which the first step bears (eps is 0.001 at most here).

    The bound holds for every x: no mean is below -log p(x) by more than the noise of 3,000 draws (4 deviations)."""
    oracle = TimedOracle(PROCESSES.build({"type": process, "schedule": schedule}, vocab_size=V), LAW)
    times, repeats = GRIDS.build("linear").times(steps), 3000
    x = torch.arange(V)[:, None].repeat(repeats, 1)
    found = bound(oracle, x, times, SampleStreams(0, range(len(x)))).view(repeats, V)
    error = found.std(0) / repeats**0.5 + 1e-9
    assert ((found.mean(0) - -LAW.log()) > -4 * error - 2e-3).all()
    entropy = -float((LAW * LAW.log()).sum())
    assert float((LAW * found.mean(0)).sum()) == pytest.approx(entropy, abs=5 * float((LAW * error).sum()) + 4e-3)


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_fine_walks_of_exact_predictions_are_nearly_tight(process: str) -> None:
    """Averaged over all samples by their probability; looser with fewer steps, never below."""
    source = Markov(Markov.Config(vocab_size=2, length=L, successors=1, smoothing=0.2, size=8))
    x = torch.tensor(list(itertools.product(range(2), repeat=L)))
    weights = source.log_likelihood(x).exp()
    assert float(weights.sum()) == pytest.approx(1)
    exact = -float((weights * weights.log()).sum())
    oracle = exact_denoiser(source, PROCESSES.build(process, vocab_size=2))
    coarse, fine = (float((weights * measured(oracle, x, steps, 600)).sum()) for steps in (1, 48))
    assert fine == pytest.approx(exact, rel=0.05)
    assert coarse == pytest.approx(L * math.log(2), rel=0.02)  # tokens alone are fair coins
    assert coarse > exact + 0.1


@pytest.mark.parametrize("schedule", ["linear", "log_linear"])
@pytest.mark.parametrize("steps", [1, 3])
def test_plugged_leave_one_out_predictions_of_a_token_have_its_likelihood(schedule: str, steps: int) -> None:
    """Plugged into the posterior they are the true reverse process, in the last step too: E_x[bound] is the entropy."""
    process = PROCESSES.build({"type": "uniform", "schedule": schedule}, vocab_size=V)
    times, repeats = GRIDS.build("linear").times(steps), 3000
    x = torch.arange(V)[:, None].repeat(repeats, 1)
    streams = SampleStreams(0, range(len(x)))
    estimates = bound(LeaveOneOut(TimedOracle(process, LAW)), x, times, streams, posterior="plugged").view(repeats, V)
    error = float((LAW * estimates.std(0)).sum()) / repeats**0.5
    entropy = -float((LAW * LAW.log()).sum())
    assert float((LAW * estimates.mean(0)).sum()) == pytest.approx(entropy, abs=5 * error + 4e-3)


def test_plugged_fine_walks_of_leave_one_out_predictions_are_nearly_tight() -> None:
    source = Markov(Markov.Config(vocab_size=2, length=L, successors=1, smoothing=0.2, size=8))
    x = torch.tensor(list(itertools.product(range(2), repeat=L)))
    weights = source.log_likelihood(x).exp()
    oracle = LeaveOneOut(exact_denoiser(source, PROCESSES.build("uniform", vocab_size=2)))
    rows = x.repeat(600, 1)
    streams = SampleStreams(0, range(len(rows)))
    estimates = bound(oracle, rows, GRIDS.build("linear").times(48), streams, posterior="plugged").view(600, len(x))
    exact = -float((weights * weights.log()).sum())
    assert float((weights * estimates.mean(0)).sum()) == pytest.approx(exact, rel=0.05)


def test_the_first_step_bears_what_the_schedule_leaves_of_the_signal() -> None:
    """Masks, two steps, in closed form: q reveals with alpha_s in the first step, p with what the process says."""
    eps, s = 0.05, 0.5
    process = PROCESSES.build({"type": "masked", "schedule": {"type": "log_linear", "eps": eps}}, vocab_size=V)
    oracle = TimedOracle(process, LAW)
    q = 1 - s + eps * s
    p = (q - eps) / (1 - eps)
    chance = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    x = torch.zeros(20000, 1, dtype=torch.long)
    found = float(bound(oracle, x, [1.0, s, 0.0], SampleStreams(1, range(len(x)))).mean())
    # q's second state is revealed with alpha_s, so that the last step bears the rest of the token.
    assert found == pytest.approx(-float(LAW[0].log()) + chance, rel=0.02)


def test_each_sample_has_its_own_noise() -> None:
    source = Markov(Markov.Config(vocab_size=4, length=6, successors=2, size=8))
    oracle, x = (
        exact_denoiser(source, PROCESSES.build("uniform", vocab_size=4)),
        source.draw(6, Generator().manual_seed(0)),
    )
    times = GRIDS.build("linear").times(4)
    whole = bound(oracle, x, times, SampleStreams(2, range(6)))
    parts = [bound(oracle, x[i : i + 2], times, SampleStreams(2, range(i, i + 2))) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(bound(oracle, x, times, SampleStreams(3, range(6))), whole)


def by_enumeration(table: Table, x: list[int], times: list[float]) -> float:
    """-ELBO of one sample as one sum over all walks (z_1, ..., z_s) of q(walk) log (q(walk) / p(walk, x)).

    Plain probabilities: q by Bayes' rule from transition matrices, p by drawing x first, tokens independent of each
    other given z. Masks start from the prior, since no other start has a finite divergence from it.
    """
    process, length = table.process, len(x)
    states = list(itertools.product(range(process.num_states), repeat=length))
    noise = kernel(process, 0.0)[0]
    # Tokens that are no masks are known.
    known = torch.eye(process.num_states, process.vocab_size, dtype=torch.float64)
    where = [process.to_predict(torch.tensor([z]))[0] for z in states]
    rows = [table.logits[table.index(torch.tensor([z]))[0]].softmax(-1).detach() for z in states]
    predicted = {z: torch.where(w[:, None], r, known[list(z)]) for z, w, r in zip(states, where, rows, strict=True)}
    from_clean = [kernel(process, level(process.schedule, t))[: process.vocab_size] for t in times]
    further = [kernel(process, level(process.schedule, t) / level(process.schedule, s)) for t, s in pairs(times)]

    def back(step: int, clean: int, now: int, then: int) -> float:
        """q(z_s = then | z_t = now, x = clean)."""
        law = from_clean[step + 1][clean] * further[step][:, now]
        return float(law[then] / law.sum()) if law.sum() > 0 else 0.0

    def masked_first(step: int) -> bool:
        return step == 0 and process.carry_over

    def walk(step: int, now: tuple[int, ...], log_ratio: float) -> float:
        """What is left of the sum after a walk reached `now`, weighted by what q gives the rest."""
        rows = predicted[now]
        if step == len(times) - 2:
            return log_ratio - sum(math.log(float(rows[i, x[i]])) for i in range(length))
        total = 0.0
        for then in states:
            q = p = 1.0
            for i in range(length):
                q *= (
                    float(from_clean[step + 1][x[i], then[i]])
                    if masked_first(step)
                    else back(step, x[i], now[i], then[i])
                )
                p *= sum(float(rows[i, c]) * back(step, c, now[i], then[i]) for c in range(process.vocab_size))
            if q > 0:
                total += q * walk(step + 1, then, log_ratio + math.log(q / p))
        return total

    total = 0.0
    for start in states:
        p = math.prod(float(noise[z]) for z in start)
        q = p if process.carry_over else math.prod(float(from_clean[0][x[i], start[i]]) for i in range(length))
        if q > 0:
            total += q * walk(0, start, math.log(q / p))
    return total


def pairs(times: list[float]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(times))


def with_signal(name: str, size: int, eps: float) -> DiscreteProcess:
    """A process that keeps `eps` of the signal at t = 1; no schedule that ships keeps so much."""
    process = PROCESSES.build(name, vocab_size=size)
    process.schedule = SimpleNamespace(alpha=lambda t: 1 - (1 - eps) * t)  # type: ignore[assignment]
    return process


@pytest.mark.parametrize("evaluations", [None, 2], ids=["all", "some"])
@pytest.mark.parametrize("eps", [0.0, 0.4])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_the_bound_is_the_sum_over_all_walks(process: str, eps: float, evaluations: int | None) -> None:
    """Three steps of an arbitrary network on two tokens, with and without signal at t = 1; and with two of the three
    steps looked at, which leaves the mean. 20,000 estimates; five of their standard errors are no chance."""
    table = Table(with_signal(process, V, eps), seed=3)
    times, x = [1.0, 0.7, 0.35, 0.0], [2, 0]
    rows = torch.tensor([x]).expand(20000, 2)
    with torch.no_grad():
        found = bound(table, rows, times, SampleStreams(0, range(len(rows))), evaluations=evaluations)
    error = float(found.std()) / len(rows) ** 0.5
    assert float(found.mean()) == pytest.approx(by_enumeration(table, x, times), abs=5 * error)
    assert error < 0.02


def test_the_prior_costs_what_is_left_of_the_signal() -> None:
    """Against the divergence as torch has it; nothing without signal, and all of the token without noise."""
    for eps in (0.0, 0.3, 0.9):
        process = with_signal("uniform", 5, eps)
        q = torch.distributions.Categorical(kernel(process, eps)[0])
        prior = torch.distributions.Categorical(torch.full((5,), 0.2, dtype=torch.float64))
        exact = float(torch.distributions.kl_divergence(q, prior))
        assert prior_divergence(process) == pytest.approx(exact, abs=1e-9)
    assert prior_divergence(process) > 1, "most of log 5"
    masked: DiscreteProcess = PROCESSES.build("masked", vocab_size=5)
    assert prior_divergence(masked) == 0


def test_a_few_steps_of_many_give_the_same_bound_for_less() -> None:
    """256 steps, all of them and 8 of them: the same mean within its standard error, an eighth of the evaluations."""
    source = Markov(Markov.Config(vocab_size=4, length=6, successors=2, smoothing=0.2, size=8))
    x = source.draw(500, Generator().manual_seed(0))
    times = GRIDS.build("linear").times(256)
    for process in ("masked", "uniform"):
        oracle = exact_denoiser(source, PROCESSES.build(process, vocab_size=4))
        whole = bound(oracle, x[:40].repeat(4, 1), times, SampleStreams(1, range(160))).view(4, 40).mean(0)
        before = oracle.nfe
        repeats = x[:40].repeat(150, 1)
        few = bound(oracle, repeats, times, SampleStreams(2, range(len(repeats))), evaluations=8).view(150, 40)
        assert oracle.nfe - before == 8
        error = float(few.mean(0).sub(whole).std()) / 40**0.5
        assert abs(float(few.mean() - whole.mean())) < 4 * error
        assert error < 0.1
    more = bound(oracle, x[:3], times[:5], SampleStreams(0, range(3)), evaluations=99)
    assert torch.equal(more, bound(oracle, x[:3], times[:5], SampleStreams(0, range(3)))), "no more than there are"

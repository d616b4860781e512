"""Bounds on the likelihood, where the likelihood is known: by enumeration, in closed form, and in the limit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from enumerable import TimedOracle
from torch import Generator, Tensor

from fewstep.data.markov import Markov
from fewstep.denoiser import Denoiser
from fewstep.grids.base import GRIDS
from fewstep.likelihood import bound
from fewstep.processes.base import PROCESSES
from fewstep.randomness import SampleStreams

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
    oracle = source.oracle(PROCESSES.build(process, vocab_size=2))
    coarse, fine = (float((weights * measured(oracle, x, steps, 600)).sum()) for steps in (1, 48))
    assert fine == pytest.approx(exact, rel=0.05)
    assert coarse == pytest.approx(L * math.log(2), rel=0.02)  # tokens alone are fair coins
    assert coarse > exact + 0.1


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
    oracle, x = source.oracle(PROCESSES.build("uniform", vocab_size=4)), source.draw(6, Generator().manual_seed(0))
    times = GRIDS.build("linear").times(4)
    whole = bound(oracle, x, times, SampleStreams(2, range(6)))
    parts = [bound(oracle, x[i : i + 2], times, SampleStreams(2, range(i, i + 2))) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(bound(oracle, x, times, SampleStreams(3, range(6))), whole)

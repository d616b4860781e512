"""The Markov source and its oracle against enumeration, and ancestral sampling against the exact law."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.metrics.base import METRICS
from fewstep.predictions.condition import Condition, Prefix
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.samplers.base import SAMPLERS
from fewstep.testing.statistics import assert_same_distribution

V, L = 3, 4


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda order: f"order-{order}")
def source(request: pytest.FixtureRequest) -> Markov:
    return Markov(Markov.Config(vocab_size=V, order=request.param, length=L, successors=2, smoothing=0.1, size=16))


def sequences() -> Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=L)))


def test_the_law_is_a_stationary_law(source: Markov) -> None:
    joint = source.log_likelihood(sequences()).exp().view(*[V] * L)
    assert joint.sum() == pytest.approx(1.0)
    for n in (1, 2, 3):
        for first in range(L - n + 1):
            others = [place for place in range(L) if not first <= place < first + n]
            torch.testing.assert_close(joint.sum(others), source.ngram_probs(n))
    torch.testing.assert_close(joint, source.ngram_probs(L))


def test_the_next_token_depends_on_as_many_as_the_order_says(source: Markov) -> None:
    """In order 2, say, the last two tokens decide the next one's law, and the last alone does not."""
    joint, order = source.ngram_probs(L), source.config.order
    whole = joint / joint.sum(-1, keepdim=True)
    torch.testing.assert_close(whole, source.transition.view([V] * (order + 1)).expand([V] * L))
    assert (whole - whole.mean(L - 1 - order, keepdim=True)).abs().max() > 0.1


def test_samples_follow_the_law(source: Markov) -> None:
    x = source.draw(30_000, torch.Generator().manual_seed(1))
    index = (x * V ** torch.arange(L - 1, -1, -1)).sum(1)
    assert_same_distribution(torch.bincount(index, minlength=V**L), source.log_likelihood(sequences()).exp(), "draw")


def posterior_by_enumeration(source: Markov, process: DiscreteProcess, z: Tensor, t: float) -> Tensor:
    """p(x_i = c | z_t) by summing over all sequences: float64 [L, V]."""
    alpha = float(process.schedule.alpha(torch.tensor([t], dtype=torch.float64)))
    x = sequences()
    if process.carry_over:
        likelihood = torch.where(z == V, 1.0, (x == z).double()).prod(1)
    else:
        likelihood = ((x == z) * alpha + (1 - alpha) / V).double().prod(1)
    weight = source.log_likelihood(x).exp() * likelihood
    rows = torch.nn.functional.one_hot(x, V) * weight[:, None, None]
    return rows.sum(0) / weight.sum()


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_the_oracle_is_the_exact_posterior(name: str, source: Markov) -> None:
    process = PROCESSES.build(name, vocab_size=V)
    oracle = exact_denoiser(source, process)
    rng = torch.Generator().manual_seed(0)
    for t in (0.2, 0.7, 1.0):
        z = process.corrupt(source.draw(6, rng), torch.full((6,), t), generator=rng).x_t
        got = oracle(z, torch.full((6,), t)).dense_probs()
        for row in range(6):
            expected = posterior_by_enumeration(source, process, z[row], t)
            torch.testing.assert_close(got[row], expected, rtol=1e-5, atol=1e-7)
    assert oracle.nfe == 3


@pytest.mark.medium
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_ancestral_sampling_converges_to_the_exact_law(name: str) -> None:
    """V 16, L 32: the distance of 4-grams falls with every doubling of NFE, down to that of exact samples."""
    source = Markov(Markov.Config(size=2000))
    process = PROCESSES.build(name, vocab_size=16)
    oracle, sampler = exact_denoiser(source, process), SAMPLERS.build("ancestral")
    distances, floor = [], 0.0
    for steps in (1, 4, 16, 64, 256):
        metric = METRICS.build({"type": "ngram_distance", "order": 3}, dataset=source)
        metric.update(sampler.sample(oracle, 1500, steps=steps, generator=torch.Generator().manual_seed(steps)).x)
        values = metric.compute()
        distances.append(values["ngram_tv"])
        floor = values["ngram_tv_floor"]
    assert distances[0] > 0.5
    assert all(later < earlier for earlier, later in itertools.pairwise(distances[:4]))
    assert distances[-1] < 1.15 * floor, f"{distances}, floor {floor}"


def test_blocks_after_a_prefix_of_any_length_are_exact(source: Markov) -> None:
    """The law of the tokens after a prefix that is shorter than the order, as long, or longer."""
    process = PROCESSES.build("masked", vocab_size=V)
    for length in range(L):
        prefix = torch.tensor([[0, 2, 1][:length], [1, 1, 2][:length]], dtype=torch.long).view(2, length)
        oracle = exact_denoiser(source, process, block_size=1)
        masked = torch.full((2, 1), process.mask_id)
        got = oracle(masked, torch.ones(2), cond=Condition(prefix=Prefix(prefix))).dense_probs()
        for row in range(2):
            law = source.ngram_probs(length + 1)[tuple(prefix[row].tolist())]
            torch.testing.assert_close(got[row, 0], law / law.sum(), rtol=1e-5, atol=1e-7)


def test_one_step_draws_independent_tokens(source: Markov) -> None:
    """What few steps cost, exactly: one masked step draws each token from the stationary law, ignoring the others."""
    process = PROCESSES.build("masked", vocab_size=V)
    x = (
        SAMPLERS.build("ancestral")
        .sample(exact_denoiser(source, process), 30_000, steps=1, generator=torch.Generator().manual_seed(0))
        .x
    )
    pairs = torch.bincount(x[:, 1] * V + x[:, 2], minlength=V * V)
    token = source.ngram_probs(1)
    assert_same_distribution(pairs, torch.outer(token, token).flatten(), "one step")

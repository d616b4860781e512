"""Process, flow map and sampler against the exact posterior of a Markov source: 8 symbols, 16 tokens."""

from __future__ import annotations

import pytest
import torch
from fewstep_flm.exact import ExactFlowMap
from fewstep_flm.flow_map import share_of_first
from torch import Generator, Tensor

from fewstep import PROCESSES, SAMPLERS
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.schedules.gaussian_dual import induced_alpha
from fewstep.testing import check_process, check_sampler

V, L = 8, 16


def process(vocab_size: int = V):
    return PROCESSES.build("onehot_gaussian", vocab_size=vocab_size)


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L))


@pytest.fixture(scope="module")
def oracle(source: Markov) -> Denoiser:
    return exact_denoiser(source, process())


def distance(source: Markov, x: Tensor) -> float:
    """Total variation between the 4-grams of samples and the true distribution."""
    index = (x.unfold(1, 4, 1) * V ** torch.arange(3, -1, -1)).sum(-1).flatten()
    share = torch.bincount(index, minlength=V**4).double() / len(index)
    return float((share - source.ngram_probs(4).flatten()).abs().sum() / 2)


def draw(denoiser: Denoiser, steps: int, sampler: object = "ancestral", count: int = 4000) -> Tensor:
    samples = SAMPLERS.build(sampler).sample(denoiser, count, steps=steps, generator=Generator().manual_seed(0))
    assert samples.nfe == steps
    return samples.x


def test_the_process_conforms() -> None:
    check_process({"type": "onehot_gaussian", "schedule": {"type": "cosine", "eps": 0.0}})


def test_the_sampler_conforms() -> None:
    check_sampler("flow_map", steps=48, processes=["onehot_gaussian"])


@pytest.mark.parametrize(
    ("vocab_size", "signals"),
    [(16, (0.074, 0.645, 0.817)), (256, (0.326, 0.739, 0.843)), (50_257, (0.646, 0.809, 0.870))],
)
def test_the_signal_of_a_recovered_share(vocab_size: int, signals: tuple[float, ...]) -> None:
    """At alpha .01, .5 and .99; and alpha of the signal is the schedule's at every time."""
    p = process(vocab_size)
    assert p.signal(torch.tensor([0.99, 0.5, 0.01]))[:, 0, 0].tolist() == pytest.approx(signals, abs=6e-4)
    t = torch.cat([torch.linspace(0.001, 0.999, 101), torch.tensor([1e-6, 1 - 1e-6])]).double()
    g = p.signal(t)[:, 0, 0]
    assert (induced_alpha(-2 * torch.logit(g), vocab_size) - (1 - t)).abs().max() < 1e-6
    assert (p.time_of_signal(g) - t).abs().max() < 1e-6
    assert p.signal(torch.tensor([1.0, 0.0]))[:, 0, 0].tolist() == [0.0, 1.0]


def test_the_largest_coordinate_recovers_what_the_schedule_says() -> None:
    x0, rng = torch.randint(V, (20_000, 1), generator=Generator().manual_seed(0)), Generator().manual_seed(1)
    for t in (0.2, 0.5, 0.8):
        shown = process().to_ids(process().corrupt(x0, torch.full((len(x0),), t), generator=rng).x_t)
        assert float((shown == x0).double().mean()) == pytest.approx(1 - t + t / V, abs=0.02)


def test_soft_data_are_noised_as_their_mean() -> None:
    x0, t = torch.randint(V, (5, L)), torch.rand(5)
    soft = torch.nn.functional.one_hot(x0, V).float()
    states = [process().corrupt(x, t, generator=Generator().manual_seed(0)).x_t for x in (x0, soft)]
    torch.testing.assert_close(*states)


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.995), (2, 0.186), (4, 0.064), (8, 0.043)])
def test_the_exact_flow(steps: int, expected: float, source: Markov, oracle: Denoiser) -> None:
    """Exact masked ancestral sampling is at .850, .521, .285 and .151; samples of the source at .037."""
    assert distance(source, draw(oracle, steps)) == pytest.approx(expected, abs=0.012)


def test_the_last_step_is_greedy_unless_the_sampler_says_otherwise(source: Markov, oracle: Denoiser) -> None:
    drawn = draw(oracle, 2, {"type": "ancestral", "greedy_tail": 0})
    assert distance(source, drawn) == pytest.approx(0.583, abs=0.02)


def test_two_jumps_are_one() -> None:
    """X(X(z, t, u), u, s) = X(z, t, s) for D of the whole jump made by lam, to 1e-12."""
    rng, p = Generator().manual_seed(0), process()
    t, u, s = torch.rand(200, 3, generator=rng, dtype=torch.float64).sort(1, descending=True).values.unbind(1)
    z = torch.randn(200, L, V, generator=rng, dtype=torch.float64)
    first, second = torch.rand(2, 200, L, V, generator=rng, dtype=torch.float64).log_softmax(-1).exp()
    lam = share_of_first(p, t, u, s)
    assert bool(((lam >= 0) & (lam <= 1)).all())
    twice = p.move(p.move(z, first, t, u), second, u, s)
    once = p.move(z, lam * first + (1 - lam) * second, t, s)
    assert (twice - once).abs().max() < 1e-12
    ends = share_of_first(p, torch.ones(3), torch.tensor([0.5, 1.0, 0.0]), torch.zeros(3))
    assert ends.flatten().tolist() == [0.0, 0.0, 0.0]  # a jump to the data ends where its last part predicts


def test_the_exact_flow_map_needs_one_step(source: Markov, oracle: Denoiser) -> None:
    """Its samples are as far from the source as those of many steps of the flow."""
    assert distance(source, draw(ExactFlowMap(oracle, 16), 1)) == pytest.approx(0.039, abs=0.006)


def test_new_noise_keeps_the_distribution(source: Markov, oracle: Denoiser) -> None:
    x = draw(ExactFlowMap(oracle, 16), 2, {"type": "flow_map", "gamma": 0.9})
    assert distance(source, x) == pytest.approx(0.039, abs=0.006)


def test_without_new_noise_the_sampler_is_ancestral(oracle: Denoiser) -> None:
    assert torch.equal(draw(oracle, 3, "flow_map", 64), draw(oracle, 3, "ancestral", 64))
    noisy = [draw(oracle, steps, {"type": "flow_map", "gamma": 0.5}, 64) for steps in (1, 3)]
    assert torch.equal(noisy[0], draw(oracle, 1, "ancestral", 64))
    assert not torch.equal(noisy[1], draw(oracle, 3, "ancestral", 64))

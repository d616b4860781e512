"""Noise given the tokens that it drew: it draws them again, and is standard Gumbel where they are the teacher's."""

from __future__ import annotations

import pytest
import torch
from exact_teacher import next_rows
from fewstep_gumbel import NoiseCondition, drawn_by, gumbel, posterior_gumbel, with_noise
from torch import Generator, Tensor

from fewstep.predictions.condition import Condition
from fewstep.testing import Markov, assert_same_distribution, exact_distribution

COUNT = 60_000
SOURCE = Markov(Markov.Config(vocab_size=3, length=3, successors=2, smoothing=0.2, size=8))
EXACT = exact_distribution(SOURCE)


def texts(generator: Generator) -> Tensor:
    return SOURCE.draw(COUNT, generator)


def level(noise: Tensor) -> Tensor:
    """Quarter of the Gumbel distribution that each number is in: P(G <= y) = exp(-exp(-y))."""
    return (4 * torch.exp(-torch.exp(-noise.double()))).long().clamp_max(3)


def test_noise_draws_its_own_text() -> None:
    generator = Generator().manual_seed(0)
    x = texts(generator)
    log_p = next_rows(EXACT, x).float()
    assert torch.equal(drawn_by(log_p, posterior_gumbel(log_p, x, generator=generator)), x)


def test_noise_of_the_teachers_texts_is_standard_gumbel() -> None:
    """Quarters of the three numbers of a place together, and of the numbers of one symbol at all places together."""
    generator = Generator().manual_seed(1)
    x = texts(generator)
    quarters = level(posterior_gumbel(next_rows(EXACT, x), x, generator=generator))
    for place in range(3):
        assert_same_distribution(counts(quarters[:, place]), torch.full((64,), 1 / 64).double(), f"place {place}")
        assert_same_distribution(counts(quarters[:, :, place]), torch.full((64,), 1 / 64).double(), f"symbol {place}")


def test_noise_of_other_texts_is_not() -> None:
    """Even texts have noise that draws even texts, and so another distribution."""
    generator = Generator().manual_seed(2)
    x = torch.randint(3, (COUNT, 3), generator=generator)
    quarters = level(posterior_gumbel(next_rows(EXACT, x), x, generator=generator))
    with pytest.raises(AssertionError):
        assert_same_distribution(counts(quarters[:, 1]), torch.full((64,), 1 / 64).double(), "place 1")


def counts(quarters: Tensor) -> Tensor:
    """Number of samples of each of 64 combinations of three quarters [COUNT, 3]."""
    return torch.bincount((quarters * torch.tensor([16, 4, 1])).sum(-1), minlength=64)


def test_impossible_tokens_have_finite_noise() -> None:
    log_p = torch.tensor([[[0.0, -torch.inf]]])
    noise = posterior_gumbel(log_p, torch.tensor([[1]]), generator=Generator().manual_seed(0))
    assert noise.isfinite().all()
    assert noise[0, 0].softmax(-1)[1] > 0.99


def test_noise_follows_its_samples() -> None:
    noise = gumbel((4, 2, 3), Generator().manual_seed(0), device="cpu")
    cond = with_noise(Condition(labels=torch.arange(4)), noise)
    chosen = cond.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.noise, noise[[2, 0]])
    assert chosen.labels.tolist() == [2, 0]
    halves = cond.split(2)
    assert all(isinstance(half, NoiseCondition) for half in halves)
    assert torch.equal(halves[1].noise, noise[2:])
    assert torch.equal(cond.repeat(2).noise, noise.repeat(2, 1, 1))
    assert torch.equal(cond.without_labels().noise, noise)

"""The Gaussian coupling: nested, with the distribution that `consistency` draws from one number a token."""

from __future__ import annotations

import pytest
import torch
from fewstep_mcd import gaussian_pair, thresholds
from torch import Generator, Tensor

from fewstep import PROCESSES
from fewstep.objectives.consistency import step_on_path
from fewstep.schedules.gaussian_dual import keep_alpha, winning
from fewstep.testing.statistics import assert_same_distribution

COUNT = 100_000
GAMMAS = torch.tensor([0.5, -1.5], dtype=torch.float64)


def pair(vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """x0, z_t and z_s, LongTensor [COUNT]."""
    generator = Generator().manual_seed(0)
    x0 = torch.randint(vocab_size, (COUNT, 1), generator=generator)
    z_t, z_s = gaussian_pair(x0, *(gamma.expand(COUNT) for gamma in GAMMAS), vocab_size, generator=generator)
    return x0[:, 0], z_t[:, 0], z_s[:, 0]


def shown(z_t: Tensor, z_s: Tensor, vocab_size: int) -> Tensor:
    """Counts of pairs: hidden in both, shown at s alone, shown at t alone, shown in both."""
    return torch.bincount((z_t < vocab_size) * 2 + (z_s < vocab_size).long(), minlength=4)


@pytest.mark.parametrize("vocab_size", [2, 8, 64])
def test_pairs_have_the_nested_distribution(vocab_size: int) -> None:
    """One u ~ U(0, 1) a token, masked iff u >= P(a / s): 100,000 draws."""
    x0, z_t, z_s = pair(vocab_size)
    share_t, share_s = winning(torch.exp(-0.5 * GAMMAS), vocab_size)
    law = torch.stack((1 - share_s, share_s - share_t, share_t * 0, share_t))
    assert_same_distribution(shown(z_t, z_s, vocab_size), law, f"pairs of {vocab_size} symbols")
    for z in (z_t, z_s):
        assert bool(((z == x0) | (z == vocab_size)).all())


@pytest.mark.parametrize("vocab_size", [2, 8, 64])
def test_the_objective_draws_the_same_pairs(vocab_size: int) -> None:
    process, generator = PROCESSES.build("masked", vocab_size=vocab_size), Generator().manual_seed(1)
    x0 = torch.randint(vocab_size, (COUNT, 1), generator=generator)
    t, s = (process.schedule.time_of(alpha).expand(COUNT) for alpha in keep_alpha(GAMMAS, vocab_size))
    z_t = process.corrupt(x0, t, generator=generator).x_t
    z_s = step_on_path(process, x0, z_t, t, s, generator=generator)
    share_t, share_s = winning(torch.exp(-0.5 * GAMMAS), vocab_size)
    law = torch.stack((1 - share_s, share_s - share_t, share_t * 0, share_t))
    assert_same_distribution(shown(z_t[:, 0], z_s[:, 0], vocab_size), law, f"pairs of {vocab_size} symbols")


def test_noise_comes_in_chunks_of_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three symbols: the same distribution of the threshold, whose mean over 8 symbols is 1.4236."""
    expected = 1.4236  # of the largest of 7 standard normal numbers is 1.3522, of 8 it is 1.4236
    monkeypatch.setattr("fewstep_mcd.coupling._SYMBOLS", 3)
    x0 = torch.arange(8).repeat(COUNT // 8)[:, None]
    threshold = thresholds(x0, 8, generator=Generator().manual_seed(0))
    assert float(threshold.mean()) == pytest.approx(1.3522, abs=0.015)
    assert float(torch.maximum(threshold, torch.zeros_like(threshold)).mean()) == pytest.approx(expected, abs=0.02)
    whole = float((threshold < 1.5).double().mean())
    assert whole == pytest.approx(float(winning(torch.tensor([1.5]), 8)), abs=0.006)

"""Is a sample drawn from a law? A chi-square test that does not flicker."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGMAS = 6.0
"""How far from expectation a statistic may lie: a right implementation fails about once in a billion draws."""


def chi_square_sigmas(counts: Tensor, law: Tensor) -> float:
    """How many standard deviations Pearson's statistic lies above its mean, cells under 5 expected pooled.

    Args:
        counts: how often each outcome was drawn [S].
        law: probability of each outcome [S].
    """
    counts, expected = counts.double(), law.double() / law.double().sum() * counts.sum()
    small = expected < 5
    if small.any():
        counts = torch.cat([counts[~small], counts[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
    possible = expected > 0
    if counts[~possible].sum() > 0:
        return math.inf
    counts, expected = counts[possible], expected[possible]
    freedom = len(counts) - 1
    if freedom < 1:
        return 0.0
    statistic = float(((counts - expected).square() / expected).sum())
    # Wilson-Hilferty: the cube root of chi-square / freedom is close to normal.
    spread = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def assert_same_law(counts: Tensor, law: Tensor, what: str) -> None:
    """Assert that `counts` could have been drawn from `law`."""
    sigmas = chi_square_sigmas(counts, law)
    assert sigmas < SIGMAS, (
        f"{what}: {sigmas:.1f} standard deviations from the law {law.tolist()}, drew {counts.tolist()}"
    )

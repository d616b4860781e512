"""Chi-square test of samples against a distribution, with a threshold that makes false alarms negligible."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGMAS = 6.0
"""Largest deviation of a statistic: a correct implementation exceeds it about once in a billion tests."""


def chi_square_sigmas(counts: Tensor, probs: Tensor) -> float:
    """Standard deviations of Pearson's statistic above its mean; cells with less than 5 expected counts are pooled.

    Args:
        counts: number of draws of each outcome [S].
        probs: probability of each outcome [S].
    """
    counts, expected = counts.double(), probs.double() / probs.double().sum() * counts.sum()
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


def assert_same_distribution(counts: Tensor, probs: Tensor, label: str) -> None:
    """Assert that `counts` are plausible draws from the distribution `probs`."""
    sigmas = chi_square_sigmas(counts, probs)
    assert sigmas < SIGMAS, (
        f"{label}: {sigmas:.1f} standard deviations from the distribution {probs.tolist()}, drew {counts.tolist()}"
    )

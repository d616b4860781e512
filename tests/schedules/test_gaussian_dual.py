"""Levels of Gaussian paths against fine quadrature, closed forms, counted draws and their own inverse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fewstep.schedules.gaussian_dual import (
    induced_alpha,
    induced_alpha_prime,
    keep_alpha,
    keep_alpha_prime,
    ratio_of,
    winning,
    winning_prime,
)

SIZES = (2, 16, 256, 50_257)
RATIOS = torch.tensor([0.0, 0.1, 0.7, 1.5, 3.0, 5.5, 9.0], dtype=torch.float64)


def fine(ratio: float, vocab_size: int) -> float:
    """P by Simpson's rule with 200,000 intervals on (-12, 12)."""
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weights = torch.full_like(z, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    values = torch.exp(-0.5 * z**2 + (vocab_size - 1) * torch.special.log_ndtr(z + ratio)) / math.sqrt(2 * math.pi)
    return float((weights * values).sum() * (z[1] - z[0]) / 3)


@pytest.mark.parametrize("size", SIZES)
def test_the_integral_is_that_of_fine_quadrature(size: int) -> None:
    expected = torch.tensor([fine(float(ratio), size) for ratio in RATIOS], dtype=torch.float64)
    assert float((winning(RATIOS, size) - expected).abs().max()) < 1e-10
    assert float(winning(RATIOS[:1], size)) == pytest.approx(1 / size, abs=1e-12), "all are alike without signal"


def test_two_symbols_have_a_closed_form() -> None:
    """P = Phi(r / sqrt 2), dP/dr = phi(r / sqrt 2) / sqrt 2."""
    torch.testing.assert_close(winning(RATIOS, 2), torch.special.ndtr(RATIOS / math.sqrt(2)), rtol=0, atol=1e-12)
    slope = torch.exp(-(RATIOS**2) / 4) / math.sqrt(4 * math.pi)
    torch.testing.assert_close(winning_prime(RATIOS, 2), slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_slopes_are_those_of_the_levels(size: int) -> None:
    gamma, step = torch.linspace(-4, 6, 21, dtype=torch.float64), 1e-4
    for level, slope in ((keep_alpha, keep_alpha_prime), (induced_alpha, induced_alpha_prime)):
        difference = (level(gamma + step, size) - level(gamma - step, size)) / (2 * step)
        torch.testing.assert_close(slope(gamma, size), difference, rtol=1e-6, atol=1e-9)
        assert (slope(gamma, size) < 0).all()


def test_a_token_is_kept_as_often_as_its_coordinate_wins() -> None:
    """The share of 200,000 draws in which x is the largest; four standard errors."""
    draws = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gamma in (-2.0, 0.0, 2.0):
        shifted = draws.clone()
        shifted[:, 3] += math.exp(-0.5 * gamma)
        share = float((shifted.argmax(1) == 3).double().mean())
        expected = float(keep_alpha(torch.tensor(gamma), 8))
        assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 200_000))


@pytest.mark.parametrize("size", SIZES)
def test_ratios_are_the_inverse_of_levels(size: int) -> None:
    def level(ratio: Tensor) -> Tensor:
        return (size * winning(ratio, size) - 1) / (size - 1)

    alpha = torch.cat(
        (torch.linspace(0, 1, 301, dtype=torch.float64)[1:-1], 1 - 10.0 ** -torch.arange(3.0, 9).double())
    )
    ratio = ratio_of(alpha, size)
    assert float((level(ratio) - alpha).abs().max()) < 1e-10
    assert (ratio[:299].diff() > 0).all()
    ends = ratio_of(torch.tensor([[0.0, 1.0]]), size)
    assert ends.tolist() == [[0.0, math.inf]], "shapes are those of the levels"

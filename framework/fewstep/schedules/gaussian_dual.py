"""Levels of discrete processes that are Gaussian ones seen through their largest coordinate.

With w = a onehot(x) + s e, e ~ N(0, I), coordinate x is the largest with probability P(r). Here r = a / s is the ratio
of signal to noise. Two processes follow from it:

* the uniform one: z = argmax w. All other symbols are equally likely, so alpha = (V P - 1) / (V - 1) (Duo, arXiv
  2506.10892, section 3);
* the masked one: z = x if x is the largest, else [MASK], so alpha = P (Latent Shadows, arXiv 2602.00792). P(0) is 1 / V
  and not 0: on this path masks never hide all tokens of a small vocabulary.

gamma = log(s^2 / a^2) is the log noise-to-signal ratio, r = exp(-gamma / 2). All values are float64 and elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

_REACH, _POINTS = 10.0, 257
"""Range of the integrals in standard deviations, and their number of points.

The trapezoidal rule is exact to all digits for smooth integrands that fall to 0 at both ends. Its error is below 1e-12
up to V = 1,000,000, where Gauss and Hermite's with 100 nodes is wrong by 1e-4 at V = 50,257 already.
"""
_CELLS, _BISECTIONS = 4000, 44
"""Cells of the table that `ratio_of` inverts, and halvings of a cell."""
_CHUNK = 16384
"""Ratios whose integrals are in memory at once, 32 MB."""


def winning(ratio: Tensor, vocab_size: int) -> Tensor:
    """P(r) = E[Phi(z + r)^(V - 1)] over a standard normal z: probability that the token's coordinate is the largest."""
    return _mean(ratio, lambda z: (vocab_size - 1) * torch.special.log_ndtr(z))


def winning_prime(ratio: Tensor, vocab_size: int) -> Tensor:
    """dP/dr = (V - 1) E[Phi(z + r)^(V - 2) phi(z + r)]."""
    constant = math.log(vocab_size - 1) - 0.5 * math.log(2 * math.pi)
    return _mean(ratio, lambda z: (vocab_size - 2) * torch.special.log_ndtr(z) - 0.5 * z**2 + constant)


def keep_alpha(gamma: Tensor, vocab_size: int) -> Tensor:
    """alpha = P of the masked process at gamma."""
    return winning(_ratio(gamma), vocab_size)


def keep_alpha_prime(gamma: Tensor, vocab_size: int) -> Tensor:
    """d alpha / d gamma of the masked process, which is negative."""
    return -0.5 * _ratio(gamma) * winning_prime(_ratio(gamma), vocab_size)


def induced_alpha(gamma: Tensor, vocab_size: int) -> Tensor:
    """alpha = (V P - 1) / (V - 1) of the uniform process at gamma."""
    return ((vocab_size * keep_alpha(gamma, vocab_size) - 1) / (vocab_size - 1)).clamp(0, 1)


def induced_alpha_prime(gamma: Tensor, vocab_size: int) -> Tensor:
    """d alpha / d gamma of the uniform process, which is negative."""
    return keep_alpha_prime(gamma, vocab_size) * (vocab_size / (vocab_size - 1))


def ratio_of(alpha: Tensor, vocab_size: int) -> Tensor:
    """The ratio r at which the uniform process has a level alpha: the inverse of `induced_alpha`, infinite at 1.

    A table of P and P' makes one cubic for each cell of r, and the cubic is inverted by bisection. The level at the
    ratio that is returned is alpha up to 1e-11. For the masked process, `ratio_of((V P - 1) / (V - 1))` inverts P.
    """
    knots, levels, slopes = (table.to(alpha.device) for table in _table(vocab_size))
    alpha = alpha.double()
    cell = (torch.searchsorted(levels, alpha.contiguous(), right=True) - 1).clamp(0, len(levels) - 2)
    width = knots[1] - knots[0]
    start, end = levels[cell], levels[cell + 1]
    rise, first, last = end - start, slopes[cell] * width, slopes[cell + 1] * width
    square, cube = 3 * rise - 2 * first - last, first + last - 2 * rise  # Hermite's cubic of the cell
    low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        above = start + middle * (first + middle * (square + middle * cube)) >= alpha
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    ratio = knots[cell] + width * 0.5 * (low + high)
    return torch.where(alpha >= 1, math.inf, torch.where(alpha <= 0, 0.0, ratio))


@lru_cache(maxsize=16)
def _table(vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ratios from 0 to where the level is 1 in float64, the levels there, and their slopes."""
    # 1 - P is at most (V - 1) Phi(-r / sqrt 2), which is below 1e-17 there.
    reach = 2 * math.sqrt(math.log(vocab_size) + 17 * math.log(10))
    ratios = torch.linspace(0, reach, _CELLS + 1, dtype=torch.float64)
    scale = vocab_size / (vocab_size - 1)
    levels = (scale * winning(ratios, vocab_size) - 1 / (vocab_size - 1)).clamp(0, 1)
    return ratios, levels.cummax(0).values, scale * winning_prime(ratios, vocab_size)


def _ratio(gamma: Tensor) -> Tensor:
    return torch.exp(-0.5 * gamma.double())


def _mean(ratio: Tensor, log_f: Callable[[Tensor], Tensor]) -> Tensor:
    """E[f(z + r)] over a standard normal z, of the logarithm of f; elementwise in r."""
    z = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64, device=ratio.device)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    parts = ratio.double().flatten().split(_CHUNK)
    return torch.cat([torch.exp(log_f(part[:, None] + z)) @ density for part in parts]).view(ratio.shape)

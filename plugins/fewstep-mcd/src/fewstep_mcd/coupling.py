"""Pairs of masked states from one Gaussian noise (Latent Shadows, arXiv 2602.00792, figure 1).

w = a onehot(x) + s e, e ~ N(0, I). A token stays if its own coordinate is the strict maximum, and is [MASK] otherwise.
Two levels with the same e give a pair. fewstep's `consistency` draws the same pairs from one uniform number a token;
this is the direct way, to compare with.

Shapes: B batch, L tokens, V vocabulary; the id V is [MASK].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.runtime.streams import Randomness, normal

_SYMBOLS = 1024
"""Symbols whose noise is in memory at once."""


def thresholds(x0: Tensor, vocab_size: int, *, generator: Randomness) -> Tensor:
    """max over j != x of e_j, less e_x: the ratio a / s above which x is the strict maximum.

    It is all that a pair depends on, one number for each token. Noise is drawn in chunks of symbols, so that no tensor
    [B, L, V] is formed.

    Args:
        x0: LongTensor [B, L].

    Returns:
        float64 [B, L].
    """
    own = torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
    largest = torch.full_like(own, -math.inf)
    for first in range(0, vocab_size, _SYMBOLS):
        size = min(_SYMBOLS, vocab_size - first)
        noise = normal((*x0.shape, size), generator, device=x0.device).double()
        place = (x0 - first)[..., None]
        here = (place >= 0) & (place < size)
        mine = noise.gather(-1, place.clamp(0, size - 1))
        own = torch.where(here[..., 0], mine[..., 0], own)
        others = noise.scatter(-1, place.clamp(0, size - 1), torch.where(here, -math.inf, mine))
        largest = torch.maximum(largest, others.amax(-1))
    return largest - own


def gaussian_pair(
    x0: Tensor, gamma_t: Tensor, gamma_s: Tensor, vocab_size: int, *, generator: Randomness
) -> tuple[Tensor, Tensor]:
    """z_t and z_s of one Gaussian noise (LongTensor [B, L] each).

    Args:
        x0: clean ids [B, L].
        gamma_t: log noise-to-signal ratios log(s^2 / a^2) of the noisier state, [B].
        gamma_s: those of the other one, [B].
    """
    threshold = thresholds(x0, vocab_size, generator=generator)
    ratios = (torch.exp(-0.5 * gamma.double())[:, None] for gamma in (gamma_t, gamma_s))
    z_t, z_s = (torch.where(ratio > threshold, x0, vocab_size) for ratio in ratios)
    return z_t, z_s

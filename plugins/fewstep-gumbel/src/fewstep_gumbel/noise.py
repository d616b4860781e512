"""Gumbel noise, the tokens that it draws, and the noise that tokens were drawn by.

With G standard Gumbel numbers, one for each symbol, argmax(log p + G) is a draw from p.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.runtime.streams import Randomness, uniform

LOWEST = math.log(1e-30)
"""Floor of log p, so that noise is finite for tokens that a teacher takes for impossible."""


def gumbel(shape: tuple[int, ...], generator: Randomness, *, device: torch.device | str) -> Tensor:
    """Standard Gumbel numbers -log(-log U), float32, from uniform numbers of 53 bits; the first axis is the batch."""
    u = uniform(shape, generator, device=device).clamp_min_(torch.finfo(torch.float64).tiny)
    return u.log_().neg_().log_().neg_().float()


def drawn_by(log_p: Tensor, noise: Tensor) -> Tensor:
    """argmax(log p + noise): the tokens that the noise draws, LongTensor [...], of two tensors [..., V]."""
    return (log_p + noise).argmax(-1)


def posterior_gumbel(log_p: Tensor, x: Tensor, *, generator: Randomness) -> Tensor:
    """Gumbel noise given that it draws x: float32 [B, L, V], with argmax(log p + noise) = x.

    The largest of log p + G is a standard Gumbel number M, whichever symbol it is of. So the noise of x is M - log p_x,
    and that of any other symbol j is Gumbel below M - log p_j: -log(exp(-G_j) + exp(log p_j - M)). If x is a draw from
    p, the noise is standard Gumbel again.

    Args:
        log_p: log-probabilities [B, L, V].
        x: LongTensor [B, L].
    """
    own = x[..., None]
    log_p = log_p.float().clamp_min(LOWEST)
    noise = gumbel(tuple(log_p.shape), generator, device=log_p.device)
    largest = noise.gather(-1, own)  # the number of x itself is free, so it stands for the largest
    others = -torch.logaddexp(-noise, log_p - largest)
    return others.scatter(-1, own, largest - log_p.gather(-1, own))

"""Exact categorical draws, also from large vocabularies.

Shapes: V vocabulary, K outcomes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.runtime.streams import Randomness, SampleStreams, uniform

_BLOCK = 256
"""Number of symbols in a block of the search through a large vocabulary."""


def expectation(log_p: Tensor, values: Tensor) -> Tensor:
    """sum_c p_c values_c of each row [N, V] -> [N]; symbols of probability 0 add nothing, whatever their value.

    They are masked because 0 x inf would give `nan` in rows that top-p has cut.
    """
    return (log_p.exp() * values.masked_fill(log_p.isneginf(), 0.0)).sum(-1)


def draw_at(log_p: Tensor, levels: Tensor) -> Tensor:
    """Symbols of rows [..., V] at which the running sum of probabilities passes a level in [0, 1) [...].

    Inverts the distribution function. For uniform float64 levels the draw is exact to the precision of `log_p`. It
    takes one random number a row, where an exponential race takes V. Symbols of probability 0 are never drawn.
    """
    return pick(log_p.exp(), levels)


def pick(weights: Tensor, levels: Tensor) -> Tensor:
    """Like `draw_at`, for nonnegative weights [..., V] and levels relative to their sum.

    Large vocabularies are searched in two steps, first for a block of symbols and then within it: a running sum over
    all symbols in float64 costs more than a softmax. The sum of a block has the precision of the weights, all other
    sums are float64.
    """
    vocab = weights.shape[-1]
    if vocab <= 4 * _BLOCK:
        return _passed(weights.cumsum(-1, dtype=torch.float64), levels)[0]
    count = vocab // _BLOCK
    blocks = weights[..., : count * _BLOCK].unflatten(-1, (count, _BLOCK)).sum(-1)
    tail = weights[..., count * _BLOCK :].sum(-1, keepdim=True)
    block, within = _passed(torch.cat([blocks, tail], -1).cumsum(-1, dtype=torch.float64), levels)
    ids = block[..., None] * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(-1, ids.clamp_max(vocab - 1)).masked_fill(ids >= vocab, 0.0)
    return block * _BLOCK + _passed(inside.cumsum(-1, dtype=torch.float64), within)[0]


def _passed(sums: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """First index [...] at which running sums [..., K] pass a level in [0, 1), relative to the last sum.

    The second result is the position of the level within that index's share, from 0 to 1. If all sums are 0, the index
    has no meaning.
    """
    total = sums[..., -1]
    below = torch.minimum(levels * total, torch.nextafter(total, torch.zeros_like(total)))  # the product may round up
    index = torch.searchsorted(sums, below[..., None], right=True).clamp_max(sums.shape[-1] - 1)
    before = torch.where(index > 0, sums.gather(-1, (index - 1).clamp_min(0)), 0.0)
    share = (below[..., None] - before) / (sums.gather(-1, index) - before)
    return index[..., 0], share[..., 0]


def sample_categorical(log_p: Tensor, generator: Randomness) -> Tensor:
    """Exact draw from each row [..., V] by the exponential race, argmin E_c / p_c with float64 E_c ~ Exp(1).

    Float32 noise has 24 bits, which makes rare tokens too rare (arXiv 2409.02908): never use it for a whole row. With
    `SampleStreams` (rows [B, L, V]) the distribution function is inverted instead.
    """
    if isinstance(generator, SampleStreams):
        return draw_at(log_p, uniform(log_p.shape[:-1], generator, device=log_p.device))
    race = torch.empty(log_p.shape, dtype=torch.float64, device=log_p.device).exponential_(generator=generator)
    return (log_p.double() - race.log()).argmax(-1)

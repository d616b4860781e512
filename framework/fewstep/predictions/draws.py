"""Exact categorical draws, also from large vocabularies.

A draw never leaves the support: a symbol of probability 0 is not drawn, whatever the random number and the rounding. A
row that is no distribution is refused (`refuse_rows`). Shapes: V vocabulary, K outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from fewstep.core.errors import OperationError
from fewstep.runtime.streams import Randomness, uniform

_BLOCK = 256
"""Number of symbols in a block of the search through a large vocabulary."""

_NO_DISTRIBUTION = (
    "tokens cannot be drawn: the predicted probabilities are not finite; the weights or an input of the network hold "
    "nan or inf, so sample another checkpoint or train again with a lower learning rate"
)

_postponed: ContextVar[list[Tensor] | None] = ContextVar("postponed", default=None)
"""Flags of the draws within `refused_at_end`; None outside it."""


@contextmanager
def refused_at_end() -> Iterator[None]:
    """Within, rows that are no distribution raise at the end, so that a GPU is asked once and not at every draw.

    Until then their tokens are ids of the vocabulary without a meaning.

    Raises:
        OperationError: a draw was made from such a row.
    """
    with refusals() as flags:
        yield
    for flag in flags:
        refuse_if(flag)


@contextmanager
def refusals() -> Iterator[list[Tensor]]:
    """Within, rows that are no distribution raise nothing: the list gets a bool scalar for each device of draws.

    Whoever asks for the list refuses later (`refuse_if`), or leaves out what came of the draws.
    """
    flags: list[Tensor] = []
    outer = _postponed.set(flags)
    try:
        yield flags
    finally:
        _postponed.reset(outer)


def refuse_rows(invalid: Tensor) -> None:
    """Refuse to draw from rows that are no distribution (BoolTensor, true for these); at once, or at the end.

    Raises:
        OperationError: there is one.
    """
    flags, flag = _postponed.get(), invalid.any()
    if flags is None:
        refuse_if(flag)
    elif flags and flags[-1].device == flag.device:
        flags[-1] = flags[-1] | flag
    else:
        flags.append(flag)


def refuse_if(flag: Tensor | bool) -> None:
    """Raise if a draw was made from rows that are no distribution.

    Raises:
        OperationError: it was.
    """
    if flag:
        raise OperationError(_NO_DISTRIBUTION)


def expectation(log_p: Tensor, values: Tensor) -> Tensor:
    """sum_c p_c values_c of each row [N, V] -> [N]; symbols of probability 0 add nothing, whatever their value.

    They are masked because 0 x inf would give `nan` in rows that top-p has cut.
    """
    return (log_p.exp() * values.masked_fill(log_p.isneginf(), 0.0)).sum(-1)


def draw_at(log_p: Tensor, levels: Tensor) -> Tensor:
    """Symbols of rows [..., V] at which the running sum of probabilities passes a level in [0, 1] [...].

    Inverts the distribution function. For uniform float64 levels the draw is exact to the precision of `log_p`; float32
    levels, with 24 bits, would make rare tokens too rare (arXiv 2409.02908). It takes one random number a row, where an
    exponential race takes V. Symbols of probability 0 are never drawn.

    Raises:
        OperationError: a row is not finite, or has no symbol of a probability above 0.
    """
    return pick(log_p.exp(), levels)


def pick(weights: Tensor, levels: Tensor, *, empty: bool = False) -> Tensor:
    """Like `draw_at`, for nonnegative weights [..., V] and levels relative to their sum.

    Large vocabularies are searched in two steps, first for a block of symbols and then within it: a running sum over
    all symbols in float64 costs more than a softmax. The sum of a block has the precision of the weights, all other
    sums are float64.

    Args:
        empty: allow rows of zeros; their symbol has no meaning.

    Raises:
        OperationError: the sum of a row is not finite, or it is 0.
    """
    vocab = weights.shape[-1]
    if vocab <= 4 * _BLOCK:
        return _passed(weights, levels, empty)[0]
    count = vocab // _BLOCK
    blocks = weights[..., : count * _BLOCK].unflatten(-1, (count, _BLOCK)).sum(-1)
    tail = weights[..., count * _BLOCK :].sum(-1, keepdim=True)
    block, within = _passed(torch.cat([blocks, tail], -1), levels, empty)
    ids = block[..., None] * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(-1, ids.clamp_max(vocab - 1)).masked_fill(ids >= vocab, 0.0)
    return (block * _BLOCK + _passed(inside, within, empty)[0]).clamp_max(vocab - 1)


def _passed(weights: Tensor, levels: Tensor, empty: bool) -> tuple[Tensor, Tensor]:
    """First index [...] at which the running sum of weights [..., K] passes a level in [0, 1], relative to their sum.

    The second result is the position of the level within that index's share, from 0 to 1.
    """
    sums = weights.cumsum(-1, dtype=torch.float64)
    total = sums[..., -1]
    refuse_rows(~(total.isfinite() if empty else (total > 0) & total.isfinite()))
    below = torch.minimum(levels * total, torch.nextafter(total, torch.zeros_like(total)))  # the product may round up
    index = torch.searchsorted(sums, below[..., None], right=True).clamp_max(sums.shape[-1] - 1)
    # A parallel sum on a GPU adds in another order at each place, so it may rise at a weight of 0.
    index = torch.where(weights.gather(-1, index) > 0, index, weights.argmax(-1, keepdim=True))
    before = torch.where(index > 0, sums.gather(-1, (index - 1).clamp_min(0)), 0.0)
    share = (below[..., None] - before) / (sums.gather(-1, index) - before)
    return index[..., 0], share[..., 0].nan_to_num(0.0).clamp(0, 1)


def sample_categorical(log_p: Tensor, generator: Randomness) -> Tensor:
    """Exact draw from each row [..., V], whose first axis is the batch; see `draw_at`.

    Raises:
        OperationError: a row is not finite, or has no symbol of a probability above 0.
    """
    return draw_at(log_p, uniform(log_p.shape[:-1], generator, device=log_p.device))


def winner(scores: Tensor) -> Tensor:
    """Index [...] of the highest score of each row [..., V], scores being log-probabilities with finite noise added.

    Raises:
        OperationError: the highest score is not finite.
    """
    if not scores.numel():
        return torch.empty(scores.shape[:-1], dtype=torch.long, device=scores.device)
    best, index = scores.max(-1)
    refuse_rows(~best.isfinite())
    return index

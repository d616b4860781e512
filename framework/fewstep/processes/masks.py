"""Masks of an exact number at random places, and the start that a one-step generator makes samples of.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.processes.masked import MaskedProcess
from fewstep.runtime.streams import Randomness, integers, uniform


def with_masks(process: MaskedProcess, x: Tensor, count: Tensor, *, generator: Randomness) -> Tensor:
    """x [B, L] with so many masks (LongTensor [B]) in each sample, at places that are all equally likely."""
    order = ranks(uniform(x.shape, generator, device=x.device))
    return x.masked_fill(order < count[:, None], process.mask_id)


def random_start(
    process: MaskedProcess, count: int, length: int, share: float, *, device: torch.device, generator: Randomness
) -> Tensor:
    """Uniformly random tokens, of which round(share L) in each of `count` samples are masks (LongTensor [B, L]).

    The start of Di[M]O's generators (arXiv 2503.15457): the random tokens are what a one-step student draws from.
    """
    tokens = integers(process.vocab_size, (count, length), generator, device=device)
    masks = torch.full((count,), round(share * length), device=device)
    return with_masks(process, tokens, masks, generator=generator)


def time_of_masks(process: MaskedProcess, share: Tensor) -> Tensor:
    """The time at which so large a share of tokens is masked, 1 - alpha(t) = share (elementwise)."""
    return process.schedule.time_of(1 - share)


def ranks(scores: Tensor) -> Tensor:
    """Place of each score in its row, the highest being 0 and the first of equals coming first (LongTensor [B, L])."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)

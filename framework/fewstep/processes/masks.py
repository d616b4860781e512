"""Masks of an exact number at random places, and the input of a one-step generator.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.processes.masked import MaskedProcess
from fewstep.runtime.streams import Randomness, integers, uniform


def with_masks(process: MaskedProcess, x: Tensor, count: Tensor, *, generator: Randomness) -> Tensor:
    """x [B, L] with `count` masks (LongTensor [B]) in each sample; all places are equally likely."""
    order = ranks(uniform(x.shape, generator, device=x.device))
    return x.masked_fill(order < count[:, None], process.mask_id)


def random_start(
    process: MaskedProcess, count: int, length: int, share: float, *, device: torch.device, generator: Randomness
) -> Tensor:
    """Uniformly random tokens, of which round(share L) in each of `count` samples are masks (LongTensor [B, L]).

    Input of Di[M]O's generators (arXiv 2503.15457): the random tokens are the only randomness of a one-step student.
    """
    tokens = integers(process.vocab_size, (count, length), generator, device=device)
    masks = torch.full((count,), round(share * length), device=device)
    return with_masks(process, tokens, masks, generator=generator)


def time_of_masks(process: MaskedProcess, share: Tensor) -> Tensor:
    """Time at which a `share` of the tokens is masked, 1 - alpha(t) = share (elementwise)."""
    return process.schedule.time_of(1 - share)


def ranks(scores: Tensor) -> Tensor:
    """Rank of each score in its row: 0 for the highest; ties keep their order (LongTensor [B, L])."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)

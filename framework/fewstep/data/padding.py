"""Samples that hold one text each: its tokens up to its end symbol, and padding after it.

The padding is the end symbol again, so ids alone say where a text ends. A text without an end symbol fills its sample.

Shapes: B samples, L tokens.
"""

from __future__ import annotations

from torch import Tensor


def text_mask(samples: Tensor, end: int) -> Tensor:
    """Tokens of the texts, up to and with the first `end` of each sample: BoolTensor [B, L] of ids [B, L]."""
    ends = samples == end
    return (ends.cumsum(1) - ends.long()) == 0


def implied_padding(text: Tensor, block_size: int) -> Tensor:
    """Padding that follows from what a network sees which goes block by block: blocks after the one of the end.

    With blocks of one token this is all padding. In the block of the end, and for networks of whole samples, padding is
    predicted beside the end and so is no certainty.

    Args:
        text: mask of `text_mask`, BoolTensor [B, L].
    """
    blocks = text.view(len(text), -1, block_size).any(2)
    return ~blocks.repeat_interleave(block_size, 1)

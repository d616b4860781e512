"""What block-autoregressive backbones are asked for.

A sequence is a row of blocks. Each is predicted from noised tokens of its own and clean tokens of those before it,
so blocks come one after another, and the tokens of a block by diffusion (BD3-LM, arXiv 2503.09573).

Shapes: B batch, L tokens, S tokens a block, P tokens of a prefix, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fewstep.backbones.base import Backbone
from fewstep.predictions.condition import Prefix


class BlockBackbone(Backbone, ABC):
    """A backbone whose predictions of a block depend on that block and on earlier clean ones. It sets `block_size`."""

    uses_context: ClassVar[bool] = True
    block_size: int

    @abstractmethod
    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        residual: Tensor | None = None,
        context: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Hidden states of all blocks at once, given a context, or of one block, given a prefix.

        Args:
            x_t: ids or probabilities over states of all tokens [B, L], or of the block after the prefix [B, S].
            t: times [B], or [B, L] (constant within a block) if blocks have times of their own.
            residual: as long as x_t; clean tokens get none.
            context: LongTensor [B, L], the clean tokens.
            prefix: the clean blocks before the one in x_t, as `read` made it.

        Raises:
            ValueError: neither context nor prefix, or shapes that do not fit.
        """

    @abstractmethod
    def read(self, prefix: Prefix, block: Tensor) -> Prefix:
        """`prefix` with one clean block [B, S] more, and what later blocks need to know of it."""


def block_mask(blocks: Tensor, read: Tensor, segments: Sequence[int] | None = None) -> Tensor:
    """Which tokens see which, in one pass over noised tokens and the clean tokens that are read along with them.

    A noised token of block b sees the noised ones of b and the clean ones of blocks before b; a clean token of block
    b sees the clean ones up to b.

    Args:
        blocks: LongTensor [L], the block of each noised token.
        read: BoolTensor [L], the clean tokens that take part.
        segments: lengths of packed sequences, which do not see each other.

    Returns:
        BoolTensor [L + R, L + R] for R clean tokens: rows see columns; noised ones first.
    """
    clean = blocks[read]
    ours, theirs = blocks[:, None], clean[None, :]
    noised_rows = torch.cat((ours == blocks[None, :], theirs < ours), 1)
    blind = torch.zeros(len(clean), len(blocks), dtype=torch.bool, device=blocks.device)
    mask = torch.cat((noised_rows, torch.cat((blind, theirs <= clean[:, None]), 1)))
    if segments is not None:
        lengths = torch.tensor(segments, device=blocks.device)
        owner = torch.arange(len(segments), device=blocks.device).repeat_interleave(lengths)
        owner = torch.cat((owner, owner[read]))
        mask &= owner[:, None] == owner[None, :]
    return mask

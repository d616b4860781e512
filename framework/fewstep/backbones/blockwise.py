"""The interface of block-autoregressive backbones.

A sequence is a row of blocks. Each block is predicted from its own noised tokens and the clean tokens before it. So
blocks are drawn one after another, and the tokens of a block by diffusion (BD3-LM, arXiv 2503.09573).

Shapes: B batch, L tokens, S tokens a block, P tokens of a prefix, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from fewstep.backbones.base import Backbone
from fewstep.predictions.condition import Prefix


class BlockBackbone(Backbone, ABC):
    """A backbone that predicts a block from that block and earlier clean ones. A subclass sets `block_size`."""

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
        """Hidden states of all blocks at once with `context`, or of one block with `prefix`.

        Args:
            x_t: ids or probabilities over states of all tokens [B, L], or of the block after the prefix [B, S].
            t: times [B], or [B, L] (constant within a block) if blocks have times of their own.
            residual: as long as x_t; clean tokens get none.
            context: LongTensor [B, L], the clean tokens.
            prefix: the clean blocks before the one in x_t, from `read`.

        Raises:
            ValueError: neither context nor prefix, both of them, or shapes that do not fit.
        """

    @abstractmethod
    def read(self, prefix: Prefix, block: Tensor) -> Prefix:
        """Append one clean block [B, S] to `prefix`, with the keys and values that later blocks attend to."""


def block_mask(blocks: Tensor, clean: Tensor) -> Tensor:
    """Attention mask of one pass over noised tokens and the clean tokens beside them.

    A noised token of block b sees the noised ones of b and the clean ones of blocks before b. A clean token of block
    b sees the clean ones up to b.

    Args:
        blocks: LongTensor [L], the block of each noised token.
        clean: LongTensor [R], the block of each clean token that takes part.

    Returns:
        BoolTensor [L + R, L + R] for R clean tokens: rows see columns; noised ones first.
    """
    noised_rows = torch.cat((blocks[:, None] == blocks[None, :], clean[None, :] < blocks[:, None]), 1)
    blind = torch.zeros(len(clean), len(blocks), dtype=torch.bool, device=blocks.device)
    return torch.cat((noised_rows, torch.cat((blind, clean[None, :] <= clean[:, None]), 1)))

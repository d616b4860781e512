"""Transformer that predicts block after block.

Shapes: B batch, L tokens, S tokens a block, P tokens of a prefix, R clean tokens read along, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fewstep.backbones.attention import resolve_backend
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.blockwise import BlockBackbone, block_mask
from fewstep.backbones.layers import AttentionContext, TimeModulation
from fewstep.backbones.trunk import TransformerTrunk, TrunkConfig, of_tokens
from fewstep.core.errors import UserError
from fewstep.predictions.condition import Prefix
from fewstep.predictions.keys_values import KeyValues

Modulations = list[tuple[Tensor, ...]]


@BACKBONES.register("block_transformer")
class BlockTransformer(TransformerTrunk, BlockBackbone):
    """Block-autoregressive transformer: bidirectional within a block, which sees the clean blocks before it.

    Training reads noised and clean tokens in one pass (BD3-LM, arXiv 2503.09573, section 3). Both copies have the same
    weights and positions. The clean copy is at t = 0, and its last block is left out, since nothing sees it. With
    `block_size` equal to the data's length it is `transformer`, with 1 an autoregressive model.

    Raises:
        UserError: `block_size` does not divide the length of a sample.
    """

    class Config(TrunkConfig):
        type: Literal["block_transformer"] = "block_transformer"
        block_size: int = Field(4, gt=0, description="tokens a block; must divide the data's length")

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        if tokens.length % config.block_size:
            raise UserError(
                f"backbone.block_size: samples of {tokens.length} tokens are no whole number of blocks of "
                f"{config.block_size} (block_size); it must divide {tokens.length}"
            )
        super().__init__(config, tokens=tokens, coordinates=torch.arange(tokens.length)[:, None].float())
        self.block_size = config.block_size

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        residual: Tensor | None = None,
        context: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        if (context is None) == (prefix is None):
            raise ValueError(
                "block_transformer predicts a block from the clean tokens before it: call it with `context` (all clean "
                "tokens) or with `prefix` (those before the one block in x_t), and not with both"
            )
        if prefix is not None:
            return self._one_block(x_t, t, prefix, residual)
        assert context is not None
        return self._all_blocks(x_t, t, context, residual)

    def _all_blocks(self, x_t: Tensor, t: Tensor, context: Tensor, residual: Tensor | None) -> Tensor:
        """One pass over L noised and R clean tokens -> hidden states of the noised ones [B, L, D].

        Raises:
            ValueError: shapes do not fit, or a sequence is too long or no whole number of blocks.
        """
        length = x_t.shape[1]
        if context.shape != x_t.shape[:2]:
            raise ValueError(f"context has shape {tuple(context.shape)}, and the noised tokens {tuple(x_t.shape[:2])}")
        places = of_tokens(torch.arange(self.tokens.length, device=x_t.device), length)
        if length % self.block_size:
            raise ValueError(f"{length} tokens are no whole number of blocks of {self.block_size}")
        read = length - self.block_size  # no block sees the last one
        where = torch.cat((places, places[:read]))
        x = torch.cat((self.embed(x_t), self.embed(context[:, :read])), 1) + self._absolute_at(where)
        if residual is not None:
            residual = F.pad(residual, (0, 0, 0, x.shape[1] - length))
            x = x + residual[0]
        blocks, attend = places // self.block_size, self._context(x, where)
        attend = replace(attend, mask=block_mask(blocks, blocks[:read]))
        modulations = self._block_modulations(t, x.shape[0], length, read)
        return self._through_blocks(x, [attend] * len(self.blocks), modulations, residual)[:, :length]

    def _one_block(self, x_t: Tensor, t: Tensor, prefix: Prefix, residual: Tensor | None) -> Tensor:
        """Hidden states [B, S, D] of the block after the prefix."""
        x, contexts = self._after(prefix, x_t, prefix.memory)
        if residual is not None:
            x = x + residual[0]
        modulations = self._block_modulations(t, x.shape[0], x.shape[1], 0)
        return self._through_blocks(x, contexts, modulations, residual)

    @torch.no_grad()
    def read(self, prefix: Prefix, block: Tensor) -> Prefix:
        layers = prefix.memory or tuple(KeyValues(self.tokens.length) for _ in self.blocks)
        memory = tuple(layer.branch(prefix.length) for layer in layers)
        x, contexts = self._after(prefix, block, memory)
        clean = torch.zeros(x.shape[0], device=x.device)
        modulations = self._block_modulations(clean, x.shape[0], x.shape[1], 0)
        self._through_blocks(x, contexts, modulations, None)
        for layer in memory:
            layer.filled = prefix.length + block.shape[1]
        return Prefix(torch.cat((prefix.ids, block), 1), memory)

    def _after(
        self, prefix: Prefix, block: Tensor, memory: tuple[KeyValues, ...]
    ) -> tuple[Tensor, list[AttentionContext]]:
        """Embeddings [B, S, D] of the block after the prefix, and each layer's context with its keys and values.

        Raises:
            ValueError: the tokens are no block, a sample has no room for it, or another network read the prefix.
        """
        first, size = prefix.length, block.shape[1]
        if size != self.block_size or first % size or first + size > self.tokens.length:
            raise ValueError(
                f"{size} tokens after a prefix of {first} are not one of the blocks of {self.block_size} that "
                f"{self.tokens.length} tokens consist of"
            )
        if len(prefix.memory) != (len(self.blocks) if first else 0):
            raise ValueError("this prefix was not read by this network; extend an empty one with `read`")
        where = slice(first, first + size)
        x = self.embed(block) + self._absolute_at(where)
        context = self._context(x, where)
        pasts = memory or (None,) * len(self.blocks)
        return x, [replace(context, past=past, first=first) for past in pasts]

    def _context(self, x: Tensor, where: Tensor | slice) -> AttentionContext:
        backend = resolve_backend(self.config.attention, x.device.type)
        return AttentionContext(self.rotations[where], backend)

    def _absolute_at(self, where: Tensor | slice) -> Tensor | float:
        """Absolute position embeddings of the places [N]: [N, D]; 0 without them."""
        return 0.0 if self.absolute is None else self.absolute(self.positions[where])

    def _block_modulations(self, t: Tensor, batch: int, noised: int, clean: int) -> Modulations | None:
        """Modulations that broadcast over L noised tokens at t and R clean ones at 0: [B, L + R, D], or [B, 1, D]."""
        if self.time is None:
            return None
        if t.ndim == 2:
            noised_rows = _times_of_blocks(self.time, t, self.block_size)
        else:
            noised_rows = self._modulations(self.time, t)
        if clean == 0:
            return noised_rows
        at_zero = self._modulations(self.time, torch.zeros(1, device=t.device))
        return [
            tuple(
                torch.cat((a.expand(batch, noised, -1), b.expand(batch, clean, -1)), 1)
                for a, b in zip(at_time, zero, strict=True)
            )
            for at_time, zero in zip(noised_rows, at_zero, strict=True)
        ]


def _times_of_blocks(time: TimeModulation, t: Tensor, size: int) -> Modulations:
    """Modulations [B, L, D] for times [B, L] that are constant within blocks; computed once per block."""
    rows = time(t[:, ::size].flatten())
    return [tuple(part.unflatten(0, (len(t), -1)).repeat_interleave(size, 1) for part in parts) for parts in rows]

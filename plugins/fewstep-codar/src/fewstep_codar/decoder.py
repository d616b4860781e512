"""An autoregressive decoder that reads vectors: token i from the tokens before it and from all vectors.

Shapes: B batch, L tokens, V vocabulary, D numbers of a vector, W width, K heads, Dh head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.backbones.attention import attention, resolve_backend
from fewstep.backbones.layers import initialise, rotary_table, rotate
from fewstep.predictions.keys_values import KeyValues


@dataclass
class Progress:
    """A decoding on its way: keys and values of the vectors and of the tokens so far, for each block.

    `place` is the number of tokens so far.
    """

    vectors: list[tuple[Tensor, Tensor]]
    tokens: list[KeyValues]
    place: int = 0


class Decoder(nn.Module):
    """Causal transformer with cross-attention and rotary positions.

    Args:
        vocab_size: V.
        length: L.
        dim: D.
        width: channels, a multiple of twice the heads.
        depth: blocks.
        heads: attention heads.
    """

    rotations: Tensor
    causal: Tensor

    def __init__(self, *, vocab_size: int, length: int, dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size + 1, width)
        """The last row stands before the first token."""
        self.place = nn.Parameter(torch.empty(length, width))
        self.memory = nn.Linear(dim, width)
        self.memory_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)
        places = torch.arange(length)
        self.register_buffer("rotations", rotary_table(places[:, None].float(), width // heads, 1e4), persistent=False)
        self.register_buffer("causal", places[:, None] >= places, persistent=False)
        initialise(self)
        nn.init.normal_(self.place, std=0.02)
        for block in self.blocks:
            for last in (block.out, block.cross_out, block.mlp_out):
                nn.init.normal_(last.weight, std=0.02 / (3 * depth) ** 0.5)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, vectors: Tensor) -> Tensor:
        """Hidden states [B, L, W] of all tokens [B, L], each from those before it and from all vectors [B, L, D]."""
        first = torch.full_like(tokens[:, :1], self.embedding.num_embeddings - 1)
        x = self.embedding(torch.cat((first, tokens[:, :-1]), 1)) + self.place
        for block, seen in zip(self.blocks, self._read(vectors), strict=True):
            x = block(x, self.rotations, seen, mask=self.causal)
        hidden: Tensor = self.norm(x)
        return hidden

    def open(self, vectors: Tensor) -> Progress:
        """A decoding of vectors [B, L, D] that has no token yet."""
        return Progress(self._read(vectors), [KeyValues(len(self.place)) for _ in self.blocks])

    def step(self, progress: Progress, last: Tensor | None) -> Tensor:
        """Hidden state [B, W] of the next token, after the last one (LongTensor [B]; None before the first)."""
        place, batch = progress.place, progress.vectors[0][0].shape[0]
        if last is None:
            last = torch.full((batch,), self.embedding.num_embeddings - 1, device=self.place.device)
        x = (self.embedding(last) + self.place[place])[:, None]
        here = self.rotations[place : place + 1]
        for block, seen, past in zip(self.blocks, progress.vectors, progress.tokens, strict=True):
            x = block(x, here, seen, past=past, first=place)
        progress.place += 1
        hidden: Tensor = self.norm(x)[:, 0]
        return hidden

    def _read(self, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the vectors for each block."""
        memory = self.memory_norm(self.memory(vectors.to(self.memory.weight.dtype)) + self.place)
        return [block.keys_values(memory, self.rotations) for block in self.blocks]


class DecoderBlock(nn.Module):
    """x + attention to the tokens before, then + attention to the vectors, then + an MLP; norms come first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        # Biases let queries and keys meet by their places alone, from the first update on.
        self.cross_q, self.cross_kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def keys_values(self, memory: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, L, K, Dh] of the vectors."""
        k, v = self.cross_kv(memory).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return rotate(k.contiguous(), rotations), v

    def forward(
        self,
        x: Tensor,
        rotations: Tensor,
        seen: tuple[Tensor, Tensor],
        *,
        mask: Tensor | None = None,
        past: KeyValues | None = None,
        first: int = 0,
    ) -> Tensor:
        """[B, Lq, W] -> [B, Lq, W]; `past` holds the tokens before, of which there are `first`."""
        backend = resolve_backend("auto", x.device.type)
        qk, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).split((2, 1), dim=2)
        q, k = rotate(qk.contiguous(), rotations).unbind(2)
        v = v.squeeze(2)
        if past is not None:
            k, v = past.extended(first, k, v)
        x = x + self.out(attention(q, k, v, backend=backend, mask=mask).flatten(2))
        q = rotate(self.cross_q(self.norm2(x)).unflatten(-1, (self.heads, -1)), rotations)
        x = x + self.cross_out(attention(q, *seen, backend=backend).flatten(2))
        mixed: Tensor = x + self.mlp_out(F.gelu(self.mlp_in(self.norm3(x))))
        return mixed

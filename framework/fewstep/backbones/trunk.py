"""The transformer that the built-in backbones share; they differ in their positions.

Shapes: B batch, L tokens, S input states, D width, A position axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.attention import resolve_backend
from fewstep.backbones.base import Backbone, TokenSpace
from fewstep.backbones.heads import symbol_head
from fewstep.backbones.layers import (
    AttentionContext,
    Block,
    TimeModulation,
    in_stream,
    initialise,
    modulate,
    rotary_table,
    run_block,
    sinusoids,
)
from fewstep.backbones.transformer_config import StreamConfig, TransformerConfig


class TrunkConfig(StreamConfig):
    """Settings of the transformers that share this trunk."""

    time_conditioned: bool = Field(
        False, description="adaLN-Zero on t; the number of masks shows the time, but uniform states do not show it"
    )
    rotary_base: float = Field(10_000.0, gt=1, description="ratio of the fastest to the slowest rotary frequency")
    positions: Literal["rotary", "rotary_absolute"] = Field(
        "rotary_absolute",
        description="rotary alone encodes distances only, so equal tokens (all masks) get equal predictions",
    )


class TransformerTrunk(Backbone):
    """Bidirectional pre-norm transformer with rotary positions.

    Args:
        config: settings.
        tokens: its input and output.
        coordinates: float [L, A], the position of each token on each axis.
    """

    config: TrunkConfig
    rotations: Tensor
    positions: Tensor

    def __init__(self, config: TrunkConfig, *, tokens: TokenSpace, coordinates: Tensor) -> None:
        super().__init__(config, tokens=tokens)
        width = self.width = config.width
        self.residual_sites = config.depth
        self.time_conditioned = config.time_conditioned
        self.embedding = nn.Embedding(tokens.num_states, width)
        self.blocks = nn.ModuleList(make_block(config, modulated=config.time_conditioned) for _ in range(config.depth))
        self.time = TimeModulation(width, config.depth) if config.time_conditioned else None
        self.norm = nn.LayerNorm(width, elementwise_affine=self.time is None)
        self.head = symbol_head(self.embedding, "weight", tokens, width, tied=config.tie_weights)
        self.register_buffer(
            "rotations", rotary_table(coordinates, width // config.heads, config.rotary_base), persistent=False
        )
        self.absolute: nn.Linear | None = None
        if config.positions == "rotary_absolute":
            self.absolute = nn.Linear(width, width, bias=False)
            self.register_buffer("positions", _position_features(coordinates, width), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights of standard deviation 0.02, divided by sqrt(2 depth) at the end of each branch (GPT-2).

        The division keeps the variance of the sum of all branches. The head is not zero: zero would hide the first
        step's gradient from all layers before it. Time and absolute positions start at zero, so the network starts
        without them.
        """
        initialise(self)
        for block in (module for module in self.modules() if isinstance(module, Block)):
            for last in (block.out, block.mlp_out):
                nn.init.normal_(last.weight, std=0.02 / (2 * len(self.blocks)) ** 0.5)
        if self.time is not None:
            nn.init.zeros_(self.time.out.weight)
        if self.absolute is not None:
            nn.init.zeros_(self.absolute.weight)

    def forward(self, x_t: Tensor, t: Tensor, *, residual: Tensor | None = None) -> Tensor:
        x = self.embed(x_t)
        if residual is not None:
            x = x + residual[0]
        if self.absolute is not None:
            x = x + of_tokens(self.absolute(self.positions), x.shape[1])
        backend = resolve_backend(self.config.attention, x.device.type)
        context = AttentionContext(of_tokens(self.rotations, x.shape[1]), backend)
        modulations = None if self.time is None else self._modulations(self.time, t)
        return self._through_blocks(x, [context] * len(self.blocks), modulations, residual)

    def _through_blocks(
        self,
        x: Tensor,
        contexts: Sequence[AttentionContext],
        modulations: Sequence[tuple[Tensor, ...]] | None,
        residual: Tensor | None,
    ) -> Tensor:
        """Embeddings [B, L, D] -> hidden states, with one context per block, and modulations if there is a time."""
        x = in_stream(x, self.config.residual_stream)
        for index, block in enumerate(self.blocks):
            x = _with_residual(x, residual, index)
            modulation = None if modulations is None else modulations[index]
            x = run_block(block, x, contexts[index], modulation, recompute=self.config.activation_checkpointing)
        hidden: Tensor = self.norm(x)
        return hidden if modulations is None else modulate(hidden, *modulations[-1])

    def settled(self, device_type: str) -> dict[str, str]:
        return {"attention": resolve_backend(self.config.attention, device_type)}

    def embed(self, x_t: Tensor) -> Tensor:
        """Ids [B, L] or probabilities [B, L, S] -> embeddings [B, L, D]."""
        weight = self.embedding.weight
        return x_t.to(weight.dtype) @ weight if x_t.is_floating_point() else nn.functional.embedding(x_t, weight)

    @staticmethod
    def _modulations(time: TimeModulation, t: Tensor) -> list[tuple[Tensor, ...]]:
        """Modulations [B, 1, D], which broadcast over tokens."""
        return [tuple(part[:, None] for part in parts) for parts in time(t)]


def make_block(config: TransformerConfig, *, modulated: bool) -> Block:
    """One block of the size in `config`."""
    return Block(
        config.width,
        config.heads,
        round(config.mlp_ratio * config.width),
        qk_norm=config.qk_norm,
        modulated=modulated,
        dropout=config.dropout,
    )


def _with_residual(x: Tensor, residual: Tensor | None, index: int) -> Tensor:
    """Add the residual of block `index`, if it has one; the first is already in the embedding."""
    return x if residual is None or not 0 < index < residual.shape[0] else x + residual[index].to(x.dtype)


def _position_features(coordinates: Tensor, width: int) -> Tensor:
    """Coordinates [L, A] -> sinusoids [L, D], the channels shared by the axes."""
    shares = [(width + i) // coordinates.shape[1] for i in range(coordinates.shape[1])]
    return torch.cat([sinusoids(x, n, scale=1.0) for x, n in zip(coordinates.T, shares, strict=True)], -1)


def of_tokens(table: Tensor, length: int) -> Tensor:
    """Rows of a table over positions, one for each of `length` tokens.

    Raises:
        ValueError: a sequence is longer than the table.
    """
    if length > table.shape[0]:
        raise ValueError(f"a sequence of {length} tokens is longer than the {table.shape[0]} this backbone is made for")
    return table[:length]

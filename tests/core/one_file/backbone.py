"""A backbone without attention."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewstep import BACKBONES, Backbone, ComponentConfig, TokenSpace


@BACKBONES.register("mixer")
class Mixer(Backbone):
    """One layer that mixes tokens and one that mixes channels (MLP-Mixer, arXiv 2105.01601)."""

    class Config(ComponentConfig):
        type: Literal["mixer"] = "mixer"
        width: int = Field(16, ge=1, description="channels of a token")

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens)
        self.width, self.time_conditioned = config.width, False
        self.embedding = nn.Parameter(torch.randn(tokens.num_states, config.width))
        self.over_tokens = nn.Linear(tokens.length, tokens.length)
        self.over_channels = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, tokens.vocab_size)

    def forward(self, x_t: Tensor, t: Tensor, *, residual: Tensor | None = None) -> Tensor:
        soft = x_t.is_floating_point()
        x = x_t.to(self.embedding.dtype) @ self.embedding if soft else self.embedding[x_t]
        if residual is not None:
            x = x + residual[0]
        x = x + self.over_tokens(x.transpose(1, 2)).tanh().transpose(1, 2)
        return x + self.over_channels(x).tanh()

"""Gaussian noise directly on the embeddings.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.adapters.noise.base import NOISE_INPUTS, NoiseInput
from fewstep.backbones.base import TokenSpace
from fewstep.core.component import ComponentConfig
from fewstep.runtime.streams import Randomness, normal


@NOISE_INPUTS.register("embedding")
class EmbeddingNoise(NoiseInput):
    """r N(0, I) on every channel of every token's embedding, without parameters (Di[M]O, arXiv 2503.15457).

    The paper has e' = sqrt(1 - r^2) e + r n. Noise inputs add to embeddings and cannot scale them, so the factor
    sqrt(1 - r^2), 0.995 for r = 0.1, is left out.
    """

    scale: Tensor

    class Config(ComponentConfig):
        type: Literal["embedding"] = "embedding"
        scale: float = Field(0.1, gt=0, description="standard deviation r of the noise, on every channel")

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace, width: int, sites: int) -> None:
        super().__init__(config, tokens=tokens, width=width, sites=sites)
        # A buffer, so that it moves to the network's device and dtype; not persistent, since it is a setting.
        self.register_buffer("scale", torch.tensor(self.config.scale), persistent=False)

    def forward(self, count: int, generator: Randomness = None) -> Tensor:
        shape = (count, self.tokens.length, self.width)
        noise = normal(shape, generator, device=self.scale.device, dtype=self.scale.dtype)
        return (self.scale * noise)[None]

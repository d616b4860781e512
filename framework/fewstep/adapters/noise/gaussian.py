"""Plain Gaussian noise.

Shapes: B batch, L tokens, D width, R places of injection.
"""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor

from fewstep.adapters.noise.base import NOISE_INPUTS, NoiseInput, NoiseInputConfig
from fewstep.backbones.base import TokenSpace
from fewstep.runtime.streams import Randomness, normal


@NOISE_INPUTS.register("gaussian")
class GaussianNoise(NoiseInput):
    """Independent Gaussian noise at every position, through a learned projection (arXiv 2603.20155, 6.5: text)."""

    class Config(NoiseInputConfig):
        type: Literal["gaussian"] = "gaussian"

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace, width: int, sites: int) -> None:
        super().__init__(config, tokens=tokens, width=width, sites=sites)
        self.project = self.projection()

    def forward(self, count: int, generator: Randomness = None) -> Tensor:
        weight = self.project.weight
        shape = (count, self.tokens.length, self.config.channels)
        noise = normal(shape, generator, device=weight.device, dtype=weight.dtype)
        return rearrange(self.project(noise), "b l (r d) -> r b l d", r=self.places)

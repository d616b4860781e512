"""Gaussian noise at several scales.

Shapes: B batch, L tokens, D width, R places of injection, H x W x C grid of an image's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from einops import rearrange, repeat
from pydantic import Field
from torch import Tensor, nn

from fewstep.adapters.noise.base import NOISE_INPUTS, NoiseInput, NoiseInputConfig
from fewstep.backbones.base import TokenSpace
from fewstep.core.recipe_view import RecipeView
from fewstep.runtime.streams import Randomness, normal


@NOISE_INPUTS.register("pyramid")
class PyramidNoise(NoiseInput):
    """Gaussian noise on grids of halving resolution, each through a learned projection (arXiv 2603.20155, 6.5: images).

    Level i has one cell for 2^i x 2^i pixels (2^i tokens of a sequence), and all tokens of a cell share its numbers.
    So coarse levels are choices that whole regions share, without any work of attention. The paper leaves levels,
    weights and the way of adding them open. Here each level has its own projection, since the meaning of a choice
    differs by scale. Projection precedes enlargement, so coarse levels cost next to nothing.
    """

    class Config(NoiseInputConfig):
        type: Literal["pyramid"] = "pyramid"
        levels: int | None = Field(None, ge=1, description="scales; null: all, until one cell holds the sample")
        weights: tuple[float, ...] | None = Field(
            None, description="factor of each level's noise, finest first; null weighs all levels alike"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.weights is not None and self.levels is None:
                yield "levels", f"set the number of levels that the {len(self.weights)} weights are for"
            elif self.weights is not None and len(self.weights) != self.levels:
                yield "weights", f"{len(self.weights)} weights for {self.levels} levels; give one a level"

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace, width: int, sites: int) -> None:
        super().__init__(config, tokens=tokens, width=width, sites=sites)
        self.grid = tokens.grid or (1, tokens.length, 1)
        longest = max(self.grid[:2])
        levels = config.levels or (longest - 1).bit_length() + 1
        weights = config.weights or (1.0,) * levels
        norm = sum(weight * weight for weight in weights) ** 0.5
        self.weights = [weight / norm for weight in weights]
        self.project = nn.ModuleList(self.projection() for _ in range(levels))

    def forward(self, count: int, generator: Randomness = None) -> Tensor:
        height, width, channels = self.grid
        total: Tensor | None = None
        for level, (project, factor) in enumerate(zip(self.project, self.weights, strict=True)):
            cells = (-(-height // 2**level), -(-width // 2**level))
            weight: Tensor = project.weight  # type: ignore[assignment]
            # Channels of a pixel share their numbers, except at the finest level.
            own = channels if level == 0 else 1
            shape = (count, *cells, own, self.config.channels)
            noise = normal(shape, generator, device=weight.device, dtype=weight.dtype)
            coarse = project(noise * factor)
            fine = repeat(coarse, "b h w c d -> b (h p) (w q) (c n) d", p=2**level, q=2**level, n=channels // own)
            fine = fine[:, :height, :width]
            total = fine if total is None else total + fine
        assert total is not None
        return rearrange(total, "b h w c (r d) -> r b (h w c) d", r=self.places)

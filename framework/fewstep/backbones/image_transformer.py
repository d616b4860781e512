"""Transformer over the pixels of an image.

Shapes: L tokens (H W C, row by row, channels last), H, W, C height, width and channels of the grid, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from einops import repeat
from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.images import check_images
from fewstep.backbones.trunk import TransformerTrunk, TrunkConfig
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView


@BACKBONES.register("image_transformer")
class ImageTransformer(TransformerTrunk):
    """Bidirectional transformer over the tokens of an image, with rotary positions along rows and columns.

    Half of each head rotates with the row and half with the column (axial rotary embedding, arXiv 2403.13298).
    An embedding of the channel distinguishes the tokens of one pixel.

    Raises:
        UserError: the tokens have no grid, or do not fill it.
    """

    class Config(TrunkConfig):
        head_multiple: ClassVar[int] = 4

        type: Literal["image_transformer"] = "image_transformer"
        rotary_base: float = Field(
            100.0, gt=1, description="ratio of the fastest to the slowest rotary frequency; grids are short, so small"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            yield from check_images(self.type, recipe)

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        if tokens.grid is None:
            raise UserError("backbone image_transformer needs image data (tokens on a grid); use backbone transformer")
        height, width, channels = tokens.grid
        if height * width * channels != tokens.length:
            raise UserError(f"a grid of {height} x {width} x {channels} does not hold {tokens.length} tokens")
        super().__init__(config, tokens=tokens, coordinates=_grid_coordinates(*tokens.grid))
        self.channels = nn.Embedding(channels, config.width) if channels > 1 else None
        if self.channels is not None:
            nn.init.normal_(self.channels.weight, std=0.02)

    def embed(self, x_t: Tensor) -> Tensor:
        x = super().embed(x_t)
        if self.channels is None:
            return x
        count = self.channels.num_embeddings
        return x + repeat(self.channels.weight, "c d -> (pixels c) d", pixels=x.shape[1] // count)


def _grid_coordinates(height: int, width: int, channels: int) -> Tensor:
    """Row and column of each token: float [H W C, 2]."""
    rows = repeat(torch.arange(height), "h -> (h w c)", w=width, c=channels)
    columns = repeat(torch.arange(width), "w -> (h w c)", h=height, c=channels)
    return torch.stack((rows, columns), -1).float()

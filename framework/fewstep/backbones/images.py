"""Base of image backbones: tokens of a grid gathered into pixels or patches, and hidden states scattered to tokens.

Shapes: B batch, L tokens (H W C, row by row, channels last), D channels a token, P pixels along a patch's side,
N patches, E channels of the inner network.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.attention import resolve_backend
from fewstep.backbones.base import Backbone, TokenSpace
from fewstep.backbones.heads import symbol_head
from fewstep.backbones.layers import AttentionContext, rotary_table
from fewstep.backbones.transformer_config import NetworkConfig, TransformerConfig
from fewstep.core.errors import UserError
from fewstep.core.kinds import registry
from fewstep.core.recipe_view import RecipeView


def check_images(backbone: str, recipe: RecipeView) -> Iterator[tuple[str, str]]:
    """Problem of a backbone of images with other data; for `check_recipe` of a backbone's settings."""
    kind = registry("datasets").get(recipe.data.type).cls.kind
    if kind != "image":
        yield "type", f"{backbone} needs image data, and {recipe.data.type} holds {kind}; use transformer"


class ImageConfig(NetworkConfig):
    """Settings of every `ImageBackbone`."""

    time_conditioned: bool = Field(False, description="whether t makes a difference")

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        yield from super().check_recipe(recipe)
        yield from check_images(self.type, recipe)


class ImageBackbone(Backbone):
    """A backbone that reads all tokens of an image at once; a subclass implements the inner network, `mix`.

    Tokens are embedded in D channels, which is also the width of its hidden states and of residuals. The channels of a
    pixel are concatenated, so their order distinguishes them.

    Args:
        width: D.

    Raises:
        UserError: the tokens have no grid, or do not fill it.
    """

    config: ImageConfig

    def __init__(self, config: ImageConfig, *, tokens: TokenSpace, width: int) -> None:
        super().__init__(config, tokens=tokens)
        if tokens.grid is None:
            raise UserError(f"backbone {config.type} needs image data (tokens on a grid); use backbone transformer")
        height, columns, channels = self.grid = tokens.grid
        if height * columns * channels != tokens.length:
            raise UserError(f"a grid of {height} x {columns} x {channels} does not hold {tokens.length} tokens")
        self.width = width
        self.time_conditioned = config.time_conditioned
        self.embedding = nn.Embedding(tokens.num_states, width)

    @abstractmethod
    def mix(self, pixels: Tensor, t: Tensor) -> Tensor:
        """The inner network: pixels [B, H, W, C D] at times [B] -> the same shape."""

    def forward(self, x_t: Tensor, t: Tensor, *, residual: Tensor | None = None) -> Tensor:
        weight = self.embedding.weight
        x = x_t.to(weight.dtype) @ weight if x_t.is_floating_point() else self.embedding(x_t)
        if residual is not None:
            x = x + residual[0]
        shape, length = x.shape, self.tokens.length
        if shape[1] != length:
            raise ValueError(f"backbone {self.config.type} reads whole images of {length} tokens")
        height, columns, channels = self.grid
        pixels = rearrange(x, "b (h w c) d -> b h w (c d)", h=height, w=columns, c=channels)
        return self.mix(pixels, t).reshape(shape)


class Patches(nn.Module):
    """Pixels to patches and back, each by one linear layer; a transformer stands between them.

    Args:
        grid: H, W, C.
        side: P, which divides H and W.
        width: D.
        inner: E.

    Raises:
        UserError: patches of side P do not tile the image.
    """

    def __init__(self, grid: tuple[int, int, int], side: int, width: int, inner: int) -> None:
        super().__init__()
        height, columns, channels = grid
        if height % side or columns % side:
            raise UserError(f"backbone.patch_size: {side} must divide the image's {height} rows and {columns} columns")
        self.side, self.rows, self.columns = side, height // side, columns // side
        self.into = nn.Linear(side * side * channels * width, inner)
        self.out = nn.Linear(inner, side * side * channels * width)

    @property
    def coordinates(self) -> Tensor:
        """Row and column of each patch: float [N, 2]."""
        return torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns)).view(-1, 2).float()

    def gather(self, pixels: Tensor) -> Tensor:
        """[B, H, W, C D] -> [B, N, E]."""
        return self.into(rearrange(pixels, "b (h p) (w q) d -> b (h w) (p q d)", p=self.side, q=self.side))

    def scatter(self, patches: Tensor) -> Tensor:
        """[B, N, E] -> [B, H, W, C D]."""
        return rearrange(self.out(patches), "b (h w) (p q d) -> b (h p) (w q) d", h=self.rows, p=self.side, q=self.side)


class PatchConfig(TransformerConfig, ImageConfig):
    """Settings of transformers over patches."""

    head_multiple: ClassVar[int] = 4

    token_width: int = Field(32, gt=0, description="channels that a token is embedded in and predicted from (D)")
    patch_size: int = Field(1, gt=0, description="pixels along the side of a patch; must divide height and width")
    rotary_base: float = Field(100.0, gt=1, description="ratio of the fastest to the slowest rotary frequency")


class PatchTransformer(ImageBackbone):
    """Base of transformers over patches; a subclass makes blocks, and `rotations` of its places."""

    config: PatchConfig
    rotations: Tensor

    def __init__(self, config: PatchConfig, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens, width=config.token_width)
        self.patches = Patches(self.grid, config.patch_size, config.token_width, config.width)

    def token_head(self) -> nn.Module:
        """A head from the channels of a token to logits."""
        return symbol_head(self.embedding, "weight", self.tokens, self.width, tied=self.config.tie_weights)

    def turns(self, coordinates: Tensor) -> Tensor:
        """Rotations of heads at coordinates [N, 2]."""
        return rotary_table(coordinates, self.config.width // self.config.heads, self.config.rotary_base)

    def context(self, x: Tensor) -> AttentionContext:
        """Attention context in which all places of x [B, N, E] see each other."""
        return AttentionContext(self.rotations, resolve_backend(self.config.attention, x.device.type))

    def settled(self, device_type: str) -> dict[str, str]:
        return {"attention": resolve_backend(self.config.attention, device_type)}

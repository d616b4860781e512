"""Networks that turn images into grids of codes and back; trained by objective `vq`.

Shapes: B batch, L tokens (H W C, row by row, channels last), h, w height and width of the grid of codes, N vectors,
K codes, E width of a code.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.base import Backbone, TokenSpace
from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.kinds import registry
from fewstep.core.recipe_view import RecipeView


class AutoencoderConfig(ComponentConfig):
    """Settings of every autoencoder."""

    halvings: int = Field(
        1, ge=0, le=6, description="number n of halvings of a side; a code stands for 2^n x 2^n pixels"
    )
    codes: int = Field(64, ge=2, le=65536, description="codes in the codebook (K): the vocabulary of the tokens")
    code_width: int = Field(16, gt=0, description="numbers in a code (E)")

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        student = registry("objectives").get(recipe.objective.type).cls.roles["student"].network
        if not issubclass(student.backbone_type, Autoencoder):
            yield "type", f"{self.type} turns images into codes and predicts no tokens; objective vq trains it"
        data = registry("datasets").get(recipe.data.type).cls
        if data.kind != "image":
            yield "type", f"{self.type} needs image data, and {recipe.data.type} holds {data.kind}"


class Autoencoder(Backbone):
    """A backbone that reconstructs clean images through a grid of codes; it predicts no tokens.

    It computes with values in [0, 1], [B, C, H, W], so it fits images of any number of levels, and of any size that
    `factor` divides. The codebook is a parameter without a gradient: objective `vq` sets it to averages.

    Raises:
        UserError: the tokens have no grid, or codes do not tile it.
    """

    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens)
        if tokens.grid is None:
            raise UserError(f"backbone {config.type} needs image data (tokens on a grid)")
        height, columns, self.channels = tokens.grid
        self.factor = 2**config.halvings
        if height % self.factor or columns % self.factor:
            raise UserError(
                f"backbone.halvings: a code stands for {self.factor} x {self.factor} pixels, which does not divide the "
                f"image's {height} rows and {columns} columns"
            )
        self.grid = height // self.factor, columns // self.factor
        self.head, self.width, self.time_conditioned = nn.Identity(), 1, False
        self.codebook = nn.Parameter(torch.randn(config.codes, config.code_width))

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] -> vectors [B, h, w, E]."""

    @abstractmethod
    def decode(self, vectors: Tensor) -> Tensor:
        """Vectors [B, h, w, E] -> images [B, C, H, W], about in [0, 1]."""

    def values(self, x: Tensor) -> Tensor:
        """Tokens [B, L] as images [B, C, H, W] in [0, 1]."""
        assert self.tokens.grid is not None
        height, columns, channels = self.tokens.grid
        levels = rearrange(x, "b (h w c) -> b c h w", h=height, w=columns, c=channels)
        return levels.to(self.codebook.dtype) / (self.tokens.vocab_size - 1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """The nearest code of each vector [..., E]: LongTensor [...]."""
        return nearest_code(vectors, self.codebook.detach())

    def forward(self, x_t: Tensor, t: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """Reconstruct clean images [B, L]: their values [B, L, 1]; t makes no difference."""
        codes = self.nearest(self.encode(self.values(x_t)))
        return rearrange(self.decode(self.codebook[codes]), "b c h w -> b (h w c) 1")


def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Rows of the codebook [K, E] that are nearest to vectors [..., E], by Euclidean distance: LongTensor [...].

    |z - e|^2 = |z|^2 - 2 (z e - |e|^2 / 2), so the nearest code has the largest z e - |e|^2 / 2. The precision is at
    least float32.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        codebook = codebook.to(torch.promote_types(codebook.dtype, torch.float32))
        scores = vectors.to(codebook.dtype) @ codebook.T - codebook.square().sum(-1) / 2
        return scores.argmax(-1)


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """The codes, with the gradient of the vectors (arXiv 1711.00937, 3.2)."""
    return vectors + (codes - vectors).detach()


def perplexity(chosen: Tensor, codes: int) -> Tensor:
    """exp of the entropy of the codes' frequencies: the number of equally used codes with the same entropy.

    Args:
        chosen: LongTensor of code numbers below `codes`, of any shape.
    """
    flat = chosen.flatten()
    shares = torch.zeros(codes, dtype=torch.float64, device=flat.device)
    shares = shares.index_add(0, flat, torch.ones_like(flat, dtype=torch.float64))  # `bincount` would read the largest
    return torch.special.entr(shares / shares.sum()).sum().exp()

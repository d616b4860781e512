"""U-ViT: a transformer over patches with long skip connections.

Shapes: B batch, N patches, E width of the transformer, C D channels of a pixel's tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.images import PatchConfig, PatchTransformer
from fewstep.backbones.layers import initialise, run_block, sinusoids
from fewstep.backbones.trunk import make_block


@BACKBONES.register("uvit")
class UViT(PatchTransformer):
    """U-ViT (arXiv 2209.12152): a skip connection joins blocks i and depth - 1 - i, through a linear layer of both.

    The time is an extra place beside the patches, not a modulation. Positions are learned, and rotary within heads.
    """

    class Config(PatchConfig):
        type: Literal["uvit"] = "uvit"
        depth: int = Field(
            5, ge=3, description="blocks, an odd number: the same number before and after the middle one"
        )
        time_conditioned: bool = Field(False, description="add a token with the embedding of t beside the patches")

        @field_validator("depth")
        @classmethod
        def _odd(cls, depth: int) -> int:
            if depth % 2 == 0:
                raise ValueError(
                    f"{depth} is even; the same number of blocks must stand before and after the middle one"
                )
            return depth

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens)
        width = config.width
        self.positions = nn.Parameter(torch.empty(len(self.patches.coordinates), width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        if not config.time_conditioned:
            self.time = None  # type: ignore[assignment]
        self.blocks = nn.ModuleList(make_block(config, modulated=False) for _ in range(config.depth))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(config.depth // 2))
        self.norm = nn.LayerNorm(width)
        self.head = self.token_head()
        turns = self.turns(self.patches.coordinates)
        if config.time_conditioned:  # the time's place is not rotated
            turns = torch.cat((self.turns(torch.zeros(1, 2)), turns))
        self.register_buffer("rotations", turns, persistent=False)
        initialise(self)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.normal_(self.embedding.weight)  # no norm stands between an embedding and its patch

    def mix(self, pixels: Tensor, t: Tensor) -> Tensor:
        x = self.patches.gather(pixels) + self.positions
        if self.time is not None:
            time = self.time(sinusoids(t, self.config.width, scale=1000.0))
            x = torch.cat((time[:, None].to(x.dtype), x), 1)
        context = self.context(x)
        outputs: list[Tensor] = []
        half = len(self.skips)
        for index, block in enumerate(self.blocks):
            if index > half:
                x = self.skips[index - half - 1](torch.cat((x, outputs.pop()), -1))
            x = run_block(block, x, context, None, recompute=self.config.activation_checkpointing)
            if index < half:
                outputs.append(x)
        x = self.norm(x) if self.time is None else self.norm(x)[:, 1:]
        return pixels + self.patches.scatter(x)

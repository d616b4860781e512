"""Diffusion transformer over patches of an image.

Shapes: B batch, N patches, E width of the transformer, C D channels of a pixel's tokens.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.images import PatchConfig, PatchTransformer
from fewstep.backbones.layers import TimeModulation, initialise, modulate, run_block
from fewstep.backbones.trunk import make_block


@BACKBONES.register("image_dit")
class ImageDiT(PatchTransformer):
    """Diffusion transformer over patches of pixels (DiT, arXiv 2212.09748), with rotary positions along both axes.

    A patch of P x P pixels with all their channels is one place of the transformer, whose sequence is P^2 C times
    shorter than that of `image_transformer`. Each token is predicted from its own channels.
    """

    class Config(PatchConfig):
        type: Literal["image_dit"] = "image_dit"
        time_conditioned: bool = Field(False, description="adaLN-Zero on t")

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens)
        self.blocks = nn.ModuleList(make_block(config, modulated=config.time_conditioned) for _ in range(config.depth))
        self.time = TimeModulation(config.width, config.depth) if config.time_conditioned else None
        self.norm = nn.LayerNorm(config.width, elementwise_affine=self.time is None)
        self.head = self.token_head()
        self.register_buffer("rotations", self.turns(self.patches.coordinates), persistent=False)
        initialise(self)
        nn.init.normal_(self.embedding.weight)  # no norm stands between an embedding and its patch
        if self.time is not None:
            nn.init.zeros_(self.time.out.weight)

    def mix(self, pixels: Tensor, t: Tensor) -> Tensor:
        x = self.patches.gather(pixels)
        context = self.context(x)
        modulations: list[tuple[Tensor, ...] | None] = [None] * (len(self.blocks) + 1)
        if self.time is not None:
            modulations = [tuple(part[:, None] for part in parts) for parts in self.time(t)]
        for block, modulation in zip(self.blocks, modulations[:-1], strict=True):
            x = run_block(block, x, context, modulation, recompute=self.config.activation_checkpointing)
        last = modulations[-1]
        x = self.norm(x) if last is None else modulate(self.norm(x), *last)
        # A skip connection carries each token's own embedding, since patches are too narrow for all of them.
        return pixels + self.patches.scatter(x)

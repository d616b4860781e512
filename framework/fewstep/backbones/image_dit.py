"""Diffusion transformer over patches of an image.

Shapes: B batch, N patches, E width of the transformer, C D channels of a pixel's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.attention import resolve_backend
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.heads import symbol_head
from fewstep.backbones.images import ImageBackbone, Patches, initialise
from fewstep.backbones.layers import AttentionContext, TimeModulation, modulate, rotary_table, run_block
from fewstep.backbones.transformer_config import TransformerConfig, check_attention
from fewstep.backbones.trunk import make_block


class PatchConfig(TransformerConfig):
    """Settings of transformers over patches."""

    head_multiple: ClassVar[int] = 4

    token_width: int = Field(32, gt=0, description="channels that a token is embedded in and predicted from (D)")
    patch_size: int = Field(1, gt=0, description="pixels along the side of a patch; must divide height and width")
    rotary_base: float = Field(100.0, gt=1, description="ratio of the fastest to the slowest rotary frequency")


@BACKBONES.register("image_dit")
class ImageDiT(ImageBackbone):
    """Diffusion transformer over patches of pixels (DiT, arXiv 2212.09748), with rotary positions along both axes.

    A patch of P x P pixels with all their channels is one place of the transformer, which is P^2 C times shorter than
    that of `image_transformer`; each token is predicted from channels of its own.
    """

    class Config(PatchConfig):
        type: Literal["image_dit"] = "image_dit"
        time_conditioned: bool = Field(False, description="adaLN-Zero on t")

    config: Config
    rotations: Tensor

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens, width=config.token_width)
        self.patches = Patches(self.grid, config.patch_size, config.token_width, config.width)
        self.blocks = nn.ModuleList(make_block(config, modulated=config.time_conditioned) for _ in range(config.depth))
        self.time = TimeModulation(config.width, config.depth) if config.time_conditioned else None
        self.norm = nn.LayerNorm(config.width, elementwise_affine=self.time is None)
        self.head = symbol_head(self.embedding, "weight", tokens, config.token_width, tied=config.tie_weights)
        turns = rotary_table(self.patches.coordinates, config.width // config.heads, config.rotary_base)
        self.register_buffer("rotations", turns, persistent=False)
        initialise(self)
        nn.init.normal_(self.embedding.weight)  # no norm stands between an embedding and its patch
        if self.time is not None:
            nn.init.zeros_(self.time.out.weight)

    def mix(self, pixels: Tensor, t: Tensor) -> Tensor:
        x = self.patches.gather(pixels)
        context = AttentionContext(self.rotations, resolve_backend(self.config.attention, x.device.type), None)
        told: list[tuple[Tensor, ...] | None] = [None] * (len(self.blocks) + 1)
        if self.time is not None:
            told = [tuple(part[:, None] for part in parts) for parts in self.time(t)]
        for block, modulation in zip(self.blocks, told[:-1], strict=True):
            x = run_block(block, x, context, modulation, recompute=self.config.activation_checkpointing)
        x = self.norm(x) if told[-1] is None else modulate(self.norm(x), *told[-1])
        # What a token is itself goes around the patches, which are too narrow for it.
        return pixels + self.patches.scatter(x)

    def settled(self, device_type: str) -> dict[str, str]:
        return {"attention": resolve_backend(self.config.attention, device_type)}

    @classmethod
    def check_recipe(cls, config: Any, recipe: Any) -> Iterator[tuple[str, str]]:
        yield from check_attention(config, recipe)
        yield from super().check_recipe(config, recipe)

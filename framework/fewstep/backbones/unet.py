"""U-Net over the pixels of an image.

Shapes: B batch, H, W height and width, C D channels of a pixel's tokens, E channels of a level.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.backbones.attention import attention
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.heads import symbol_head
from fewstep.backbones.images import ImageBackbone, ImageConfig
from fewstep.backbones.layers import initialise, run_block, sinusoids


@BACKBONES.register("unet")
class UNet(ImageBackbone):
    """Convolutional U-Net with attention at low resolutions (DDPM, arXiv 2006.11239; D3PM, arXiv 2107.03006).

    Each level halves height and width, rounded up, so it fits any grid. Tokens are embedded, so their order is learned.
    Only the lowest level mixes distant places, so it always has attention.
    """

    class Config(ImageConfig):
        type: Literal["unet"] = "unet"
        width: int = Field(64, ge=8, multiple_of=8, description="channels of the first level")
        multipliers: tuple[PositiveInt, ...] = Field(
            (1, 2, 2), min_length=1, description="channels of each level over width"
        )
        blocks: int = Field(2, ge=1, description="residual blocks of a level on the way down; one more on the way up")
        attention_levels: int = Field(1, ge=1, description="number of lowest levels that have attention")
        heads: int = Field(4, ge=1, validate_default=True, description="attention heads; must divide width")
        token_width: int = Field(32, gt=0, description="channels that a token is embedded in and predicted from (D)")
        time_conditioned: bool = Field(False, description="t scales and shifts the channels of each block")
        dropout: float = Field(0.0, ge=0, lt=1, description="share of a block's channels dropped in training")

        @field_validator("heads")
        @classmethod
        def _heads_divide_width(cls, heads: int, info: ValidationInfo) -> int:
            width = info.data.get("width")
            if width is not None and width % heads:
                raise ValueError(f"heads ({heads}) must divide width ({width})")
            return heads

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens, width=config.token_width)
        pixel = self.grid[2] * config.token_width
        widths = [config.width * factor for factor in config.multipliers]
        time_width = 4 * config.width if config.time_conditioned else None
        self.time: nn.Module | None = None
        if time_width is not None:
            self.time = nn.Sequential(nn.Linear(config.width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        self.enter = nn.Conv2d(pixel, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, now = [widths[0]], widths[0]
        first_attended = len(widths) - config.attention_levels
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(Level(now, width, time_width, config, attended=level >= first_attended))
                now = width
                skips.append(now)
            if level + 1 < len(widths):
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)
        self.middle = Level(now, now, time_width, config, attended=True)
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(Level(now + skips.pop(), width, time_width, config, attended=level >= first_attended))
                now = width
        self.norm = _norm(now)
        self.leave = nn.Conv2d(now, pixel, 3, padding=1)
        self.head = symbol_head(self.embedding, "weight", tokens, config.token_width, tied=config.tie_weights)
        initialise(self)
        nn.init.normal_(self.embedding.weight)

    def mix(self, pixels: Tensor, t: Tensor) -> Tensor:
        x = self.enter(pixels.movedim(-1, 1).contiguous())  # group norm's forward mode needs contiguous rows
        time = None if self.time is None else self.time(sinusoids(t, self.config.width, scale=1000.0))
        skips = [x]
        for part in self.down:
            x = self._run(part, x, time) if isinstance(part, Level) else part(x)
            skips.append(x)
        x = self._run(self.middle, x, time)
        for part in self.up:
            skip = skips.pop()
            if x.shape[2:] != skip.shape[2:]:  # one level up; the skip has the size from before rounding
                x = F.interpolate(x, size=skip.shape[2:])
            x = self._run(part, torch.cat((x, skip), 1), time)
        return pixels + self.leave(F.silu(self.norm(x))).movedim(1, -1)

    def _run(self, part: nn.Module, x: Tensor, time: Tensor | None) -> Tensor:
        return run_block(part, x, time, recompute=self.config.activation_checkpointing)


class Level(nn.Module):
    """A residual block of two convolutions, modulated by the time between them, and optional attention over all pixels.

    Args:
        channels: input channels.
        width: output channels.
        time_width: channels of the embedded time; None without time.
        attended: whether pixels see each other.
    """

    def __init__(
        self, channels: int, width: int, time_width: int | None, config: UNet.Config, *, attended: bool
    ) -> None:
        super().__init__()
        self.dropout, self.heads = config.dropout, config.heads
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, width, 3, padding=1)
        self.norm2, self.conv2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        # The name is a state-dict key of stored models.
        self.told = None if time_width is None else nn.Linear(time_width, 2 * width)
        self.straight = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)
        self.norm3 = _norm(width) if attended else None
        self.qkv = nn.Linear(width, 3 * width, bias=False) if attended else None
        self.out = nn.Linear(width, width) if attended else None

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """[B, E, H, W] -> [B, E', H, W], with the embedded time [B, time_width]."""
        y = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.told is not None and time is not None:
            scale, shift = self.told(F.silu(time))[..., None, None].chunk(2, 1)
            y = torch.addcmul(shift, y, 1 + scale)
        y = self.conv2(F.dropout(F.silu(y), self.dropout, self.training))
        x = self.straight(x) + y
        return x if self.norm3 is None else x + self._attend(self.norm3(x))

    def _attend(self, x: Tensor) -> Tensor:
        assert self.qkv is not None
        assert self.out is not None
        rows = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(rows).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = attention(q, k, v, backend="sdpa").flatten(2)
        return self.out(mixed).transpose(1, 2).view_as(x)


def _norm(channels: int) -> nn.GroupNorm:
    """Group norm with at least eight channels a group.

    A group of one channel would cancel its bias, and on a single pixel the whole signal.
    """
    return nn.GroupNorm(math.gcd(32, channels // 8), channels)

"""Convolutional VQ autoencoder.

Shapes: B batch, C, H, W channels, height and width of an image, h, w those of its codes, E width of a code.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.autoencoder import Autoencoder, AutoencoderConfig
from fewstep.backbones.base import BACKBONES, TokenSpace


class _Residual(nn.Module):
    """x + a 3x3 and a 1x1 convolution of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.body(x)
        return x + branch


@BACKBONES.register("vq_autoencoder")
class VqAutoencoder(Autoencoder):
    """Image tokenizer of VQ-VAE (arXiv 1711.00937, 4.1): strided convolutions and residual blocks, and the way back.

    Trained by objective `vq` and used by data `vq_tokens`; it predicts no tokens itself.
    """

    class Config(AutoencoderConfig):
        type: Literal["vq_autoencoder"] = "vq_autoencoder"
        width: int = Field(64, gt=0, description="channels of convolutions")
        depth: int = Field(2, ge=0, description="residual blocks of the encoder, and of the decoder")

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens)
        width, inner = config.width, config.code_width
        down: list[nn.Module] = [nn.Conv2d(self.channels, width, 3, padding=1)]
        up: list[nn.Module] = []
        for _ in range(config.halvings):
            down += [nn.ReLU(), nn.Conv2d(width, width, 4, stride=2, padding=1)]
            up += [nn.ReLU(), nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)]
        blocks = [[_Residual(width) for _ in range(config.depth)] for _ in range(2)]
        self.encoder = nn.Sequential(*down, *blocks[0], nn.ReLU(), nn.Conv2d(width, inner, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(inner, width, 3, padding=1), *blocks[1], *up, nn.ReLU(),
            nn.Conv2d(width, self.channels, 3, padding=1),
        )  # fmt: skip

    def encode(self, values: Tensor) -> Tensor:
        vectors: Tensor = self.encoder(2 * values - 1)
        return vectors.permute(0, 2, 3, 1)

    def decode(self, vectors: Tensor) -> Tensor:
        pixels: Tensor = self.decoder(vectors.permute(0, 3, 1, 2))
        return (pixels + 1) / 2

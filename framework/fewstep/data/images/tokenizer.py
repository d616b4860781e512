"""A trained image tokenizer for datasets.

Shapes: N images, C, H, W channels, height and width, h, w height and width of their grid of codes, T = h w tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fewstep.backbones.autoencoder import Autoencoder
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import UserError
from fewstep.runtime.bounded import TooLargeError, build_bounded, largest_tensor
from fewstep.runtime.digest import weights_digest

_CHUNK = 256
"""Images per pass through the network."""


class ImageTokenizer:
    """Images to rows of codes and back, in float64 on the CPU, so that nearest codes are identical on all machines.

    Args:
        backbone: a trained autoencoder for images of this size; it is converted to float64.
    """

    def __init__(self, backbone: Autoencoder) -> None:
        self.digest = weights_digest(backbone)
        """First 16 digits of the SHA-256 of the weights."""
        self.backbone = backbone.requires_grad_(False).eval().cpu().double()

    @property
    def codes(self) -> int:
        """Number of codes."""
        return len(self.backbone.codebook)

    @property
    def grid(self) -> tuple[int, int]:
        """h and w."""
        return self.backbone.grid

    def encode(self, images: Tensor) -> Tensor:
        """Images in [0, 1] (float [N, C, H, W]) to codes (LongTensor [N, T])."""
        parts = [torch.empty(0, self.grid[0] * self.grid[1], dtype=torch.long)]
        for part in images.split(_CHUNK):
            with torch.no_grad():
                parts.append(self.backbone.nearest(self.backbone.encode(part.double())).flatten(1))
        return torch.cat(parts)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (LongTensor [N, T]) to images in [0, 1], float32 [N, C, H, W]."""
        assert self.backbone.tokens.grid is not None
        height, width, channels = self.backbone.tokens.grid
        parts = [torch.empty(0, channels, height, width)]
        for part in codes.cpu().long().split(_CHUNK):
            with torch.no_grad():
                images = self.backbone.decode(self.backbone.codebook[part.view(-1, *self.grid)])
            parts.append(images.clamp(0, 1).float())
        return torch.cat(parts)

    def description(self) -> dict[str, object]:
        """Settings and sizes, as plain data."""
        tokens = self.backbone.tokens
        return {
            "backbone": self.backbone.config.model_dump(mode="json"),
            "levels": tokens.vocab_size,
            "grid": tokens.grid,
        }

    def weights(self) -> bytes:
        """Content of a safetensors file with the float32 weights."""
        return safetensors.torch.save({n: w.float().contiguous() for n, w in self.backbone.state_dict().items()})

    @classmethod
    def restore(cls, description: Mapping[str, Any], weights: bytes) -> ImageTokenizer:
        """The tokenizer with this `description()` and these `weights()`, which may be of a stranger.

        Raises:
            UserError: the weights do not fit the description.
        """
        try:
            state = safetensors.torch.load(weights)
            height, width, channels = description["grid"]
            levels = description["levels"]
            tokens = TokenSpace(levels, levels, height * width * channels, (height, width, channels))
            config = BACKBONES.parse(description["backbone"])
            largest = largest_tensor(config.model_dump(), levels, tokens.length)
            backbone = build_bounded(lambda: BACKBONES.build(config, tokens=tokens), state.values(), largest)
            if not isinstance(backbone, Autoencoder):
                raise ValueError(f"'{backbone.config.type}' is no autoencoder")
            backbone.load_state_dict(state)
        except TooLargeError:
            raise UserError("the image tokenizer of the data is described larger than its weights") from None
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"the image tokenizer of the data is damaged ({reason})") from None
        return cls(backbone)

"""Shared parts of image datasets: sizes, grey levels, one token per pixel and channel, and random augmentation.

Shapes: N images, B batch, H, W, C height, width and channels, L = H W C tokens (row by row, channels last), K levels.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fewstep.core.component import ComponentConfig
from fewstep.data.base import DataSpec
from fewstep.data.images.base import ImageDataset
from fewstep.runtime.streams import Randomness, integers, uniform

_SHADES = " .:-=+*#%@"
_CHUNK = 4096
_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), the same as Pillow's."""


class HeldOutConfig(ComponentConfig):
    """Numbers of training and held-out images."""

    limit: int | None = Field(None, gt=0, description="number of training images to keep; null keeps all")
    held_out: int = Field(
        1000, ge=0, description="held-out images of the test part, if there is one; 0 does not read it"
    )


def no_test_part(held_out: int, instead: str) -> str:
    """Remark on data without a test part, from which `held_out` images were to be held out."""
    return f"no test part, so none of the {held_out} images of data.held_out are held out; {instead}"


class AugmentConfig(HeldOutConfig):
    """Random augmentation of training images."""

    flip: bool = Field(False, description="mirror each training image, left to right, with probability 1/2")
    shift: int = Field(
        0, ge=0, description="move each training image by at most this many pixels; its border is repeated"
    )


class PixelConfig(AugmentConfig):
    """Settings of images in colour."""

    size: int = Field(32, ge=2, le=1024, description="pixels per side")
    levels: int = Field(256, ge=2, le=256, description="levels per channel (K), of equal width; the source has 256")
    colour: Literal["rgb", "grey"] = Field("rgb", description="three tokens per pixel, or one")


class PixelDataset(ImageDataset):
    """Images whose tokens are levels of pixels, stored as bytes; a subclass reads them and calls `set_images`."""

    labelled = True

    @property
    def levels(self) -> int:
        """K."""
        return self.spec.vocab_size

    config: AugmentConfig

    @classmethod
    def outline(cls, config: ComponentConfig) -> DataSpec | None:
        if not isinstance(config, PixelConfig):
            return None
        channels = 3 if config.colour == "rgb" else 1
        return DataSpec(config.levels, channels * config.size**2, (config.size, config.size, channels))

    def set_images(self, images: Tensor, labels: Tensor, held_out: Tensor | None, levels: int) -> None:
        """Set training and held-out samples from images of the final size and levels.

        Args:
            images: levels, bytes [N, H, W, C].
            labels: [N].
            held_out: levels, bytes [M, H, W, C], or None.
            levels: K.
        """
        height, width, channels = images.shape[1:]
        self.train, self.labels = images.flatten(1), labels.long()
        self.held_out = None if held_out is None else held_out.flatten(1)
        self.spec = DataSpec(levels, height * width * channels, (height, width, channels))
        self.augments = self.config.flip or self.config.shift > 0

    def augment(self, tokens: Tensor, generator: Randomness) -> Tensor:
        if not self.augments:
            return tokens
        images = self._pictures(tokens)
        if self.config.flip:
            images = flipped(images, generator)
        if self.config.shift:
            images = shifted(images, self.config.shift, generator)
        return images.reshape(tokens.shape)

    def to_text(self, samples: Tensor) -> list[str]:
        return shaded(self._pictures(samples).double().mean(-1) / (self.levels - 1))

    def to_images(self, samples: Tensor) -> Tensor:
        return self._pictures(samples).permute(0, 3, 1, 2).float() / (self.levels - 1)

    def _pictures(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] as pixels [B, H, W, C]."""
        assert self.spec.grid is not None
        return tokens.reshape(-1, *self.spec.grid)


def shaded(grey: Tensor) -> list[str]:
    """Images in [0, 1] (float [N, H, W]) as lines of characters from light to dark."""
    shades = (grey * (len(_SHADES) - 1)).round().long().tolist()
    return ["\n".join("".join(_SHADES[v] for v in row) for row in picture) for picture in shades]


def quantised(images: Tensor, levels: int) -> Tensor:
    """Bytes of any shape to levels of equal width, as bytes: floor(K v / 256)."""
    return (
        images if levels == 256 else torch.cat([(part.int() * levels // 256).byte() for part in images.split(_CHUNK)])
    )


def resized(images: Tensor, size: int) -> Tensor:
    """Bytes [N, H, W, C] averaged over areas to [N, size, size, C], rounded down."""
    if images.shape[1:3] == (size, size):
        return images
    parts = [
        functional.adaptive_avg_pool2d(part.permute(0, 3, 1, 2).float(), size).byte().permute(0, 2, 3, 1)
        for part in images.split(_CHUNK)
    ]
    return torch.cat(parts).contiguous()


def to_grey(images: Tensor) -> Tensor:
    """Bytes [N, H, W, 3] in colour to [N, H, W, 1] in grey."""
    weights = torch.tensor(_LUMA)
    return torch.cat([(part.float() @ weights).round().byte()[..., None] for part in images.split(_CHUNK)])


def spread(count: int, limit: int | None) -> Tensor:
    """Indices (LongTensor) of `limit` out of `count` images, evenly spaced; None or a larger limit gives all.

    Even spacing preserves the shares of classes in sorted images.
    """
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.arange(limit) * count // limit


def flipped(images: Tensor, generator: Randomness) -> Tensor:
    """Images [B, H, W, C], each mirrored left to right with probability 1/2."""
    coins = uniform((len(images),), generator, device=images.device) < 0.5
    return torch.where(coins[:, None, None, None], images.flip(2), images)


def shifted(images: Tensor, reach: int, generator: Randomness) -> Tensor:
    """Images [B, H, W, C], each moved by at most `reach` pixels in both axes.

    This is the usual crop of a padded image. The padding repeats the border, since a network would learn black bars.
    """
    count, height, width, channels = images.shape
    moves = integers(2 * reach + 1, (count, 2), generator, device=images.device).T[..., None] - reach
    rows, columns = (
        (torch.arange(side, device=images.device) + move).clamp(0, side - 1)
        for side, move in zip((height, width), moves, strict=True)
    )
    images = images.gather(1, rows[:, :, None, None].expand(-1, -1, width, channels))
    return images.gather(2, columns[:, None, :, None].expand(-1, height, -1, channels))

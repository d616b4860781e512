"""Handwritten digits from scikit-learn."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.data.base import DATASETS, DataSpec
from fewstep.data.images.base import ImageDataset
from fewstep.data.images.pixels import shaded


@DATASETS.register("digits")
class Digits(ImageDataset):
    """1,797 handwritten digits, 8x8 pixels, one token per pixel (scikit-learn's load_digits; needs no download)."""

    labelled = True

    class Config(ComponentConfig):
        type: Literal["digits"] = "digits"
        levels: int = Field(16, ge=2, le=17, description="grey levels; the source has 17 (0 to 16)")
        limit: int | None = Field(
            None, ge=2, lt=1797, description="number of first images to train on; the others are held out"
        )

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        from sklearn.datasets import load_digits

        source = load_digits()
        levels, limit = self.config.levels, self.config.limit
        pixels = torch.from_numpy(source.data).long()
        images = (pixels * levels // 17).contiguous()
        self.train = images[:limit]
        self.held_out = None if limit is None else images[limit:]
        self.labels = torch.from_numpy(source.target).long()[:limit]
        self.spec = DataSpec(vocab_size=levels, length=64, grid=(8, 8, 1))

    def to_text(self, samples: Tensor) -> list[str]:
        return shaded(samples.double().view(-1, 8, 8) / (self.config.levels - 1))

    def to_images(self, samples: Tensor) -> Tensor:
        return samples.view(-1, 1, 8, 8).float() / (self.config.levels - 1)

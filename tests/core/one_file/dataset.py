"""A dataset that needs no file."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep import DATASETS, ComponentConfig, Dataset, DataSpec


@DATASETS.register("stairs")
class Stairs(Dataset):
    """Every sample counts up from a token of its own, and starts again at 0."""

    class Config(ComponentConfig):
        type: Literal["stairs"] = "stairs"
        vocab_size: int = Field(5, ge=2, description="steps of the stairs")
        length: int = Field(8, ge=2, description="tokens a sample")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        size, length = self.config.vocab_size, self.config.length
        self.spec = DataSpec(vocab_size=size, length=length)
        self.train = (torch.arange(20 * size)[:, None] + torch.arange(length)) % size

    def to_text(self, samples: Tensor) -> list[str]:
        return [" ".join(map(str, row)) for row in samples.tolist()]

"""Two coins that always agree: the smallest distribution that a factorised one-step generator cannot draw."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.data.base import DATASETS, Dataset, DataSpec


@DATASETS.register("coins")
class Coins(Dataset):
    """Fair coins in groups that always agree, HH or TT: one factorised step gets half of the pairs wrong.

    These data realise the argument of arXiv 2603.20155, section 3.1.
    """

    class Config(ComponentConfig):
        type: Literal["coins"] = "coins"
        coins: int = Field(2, ge=2, description="coins that agree in each sample")
        size: int = Field(4096, gt=1, description="samples per epoch, half of them heads")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.train = (torch.arange(self.config.size) % 2)[:, None].repeat(1, self.config.coins)
        self.spec = DataSpec(vocab_size=2, length=self.config.coins)

    def to_text(self, samples: Tensor) -> list[str]:
        return ["".join("TH"[token] for token in row) for row in samples.tolist()]

    def symbols(self) -> list[str]:
        return ["T", "H"]

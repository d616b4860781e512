"""Two coins, each of which says what the other is: the smallest distribution that a factorised generator cannot draw.

Shapes: N samples, C coins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, MAX_MADE, Dataset, DataSpec


@DATASETS.register("coins")
class Coins(Dataset):
    """Coins that always agree, HH or TT, or are always opposite: one factorised step gets half of fair pairs wrong.

    These data realise the argument of arXiv 2603.20155, section 3.1. With odds p the first coin is heads with
    probability p, and independent coins are 2 p (1 - p) from the distribution in total variation.
    """

    class Config(ComponentConfig):
        type: Literal["coins"] = "coins"
        coins: int = Field(2, ge=2, description="coins of a sample")
        odds: float = Field(0.5, gt=0, lt=1, description="probability that the first coin is heads")
        sign: Literal["agree", "opposite"] = Field(
            "agree", description="whether neighbouring coins always agree or are always opposite"
        )
        size: int = Field(4096, gt=1, description="samples per epoch, as many of each kind as the odds say")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.size * self.coins > MAX_MADE:
                yield "size", f"{self.size:,} samples of {self.coins:,} coins are too much to make; take fewer"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        # The number of heads among the first i samples is floor(i * odds), so that they are spread evenly.
        heads = torch.floor(torch.arange(c.size + 1, dtype=torch.float64) * c.odds + 1e-9).diff().long()
        self.train = (heads[:, None] + self._flips()) % 2
        self.spec = DataSpec(vocab_size=2, length=c.coins)

    def _flips(self) -> Tensor:
        """1 for each coin that differs from the first, LongTensor [C]."""
        coins = torch.arange(self.config.coins)
        return coins % 2 if self.config.sign == "opposite" else torch.zeros_like(coins)

    def sides(self, samples: Tensor) -> Tensor:
        """Side of the first coin of each sample (LongTensor [N]): 1 heads, 0 tails, -1 if the other coins contradict.

        Args:
            samples: LongTensor [N, C].
        """
        first = samples[:, :1]
        possible = (samples == (first + self._flips().to(samples)) % 2).all(1)
        return torch.where(possible, first[:, 0], -1)

    def to_text(self, samples: Tensor) -> list[str]:
        return ["".join("TH"[token] for token in row) for row in samples.tolist()]

    def symbols(self) -> list[str]:
        return ["T", "H"]

"""Distance of coin samples to the distribution of the coins."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.synthetic.coins import Coins
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore


@METRICS.register("coin_distance")
class CoinDistance(Metric):
    """Total-variation distance to the coins, with the shares of possible samples that begin with heads and with tails.

    With fair coins that agree, independent coins score 0.5, and so does a generator that always draws heads; 0 is
    exact.
    """

    directions: ClassVar = {"coin_tv": "lower", "heads": "info", "tails": "info"}
    words: ClassVar = {"coin_tv": "distance to the data (total variation)"}

    class Config(MetricConfig):
        type: Literal["coin_distance"] = "coin_distance"

        def refuses(self, to_score: ToScore) -> str | None:
            return None if issubclass(to_score.data, Coins) else "it scores the coins dataset only"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        assert isinstance(dataset, Coins)
        self.coins = dataset
        self.count = self.heads = self.tails = 0

    def update(self, samples: Tensor) -> None:
        sides = self.coins.sides(samples)
        self.count += samples.shape[0]
        self.heads += int((sides == 1).sum())
        self.tails += int((sides == 0).sum())

    def compute(self) -> dict[str, float]:
        heads, tails, odds = self.heads / self.count, self.tails / self.count, self.coins.config.odds
        distance = (abs(heads - odds) + abs(tails - (1 - odds)) + (1 - heads - tails)) / 2
        return {"coin_tv": distance, "heads": heads, "tails": tails}

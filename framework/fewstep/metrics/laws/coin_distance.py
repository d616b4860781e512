"""Distance of coin samples to the distribution of coins that always agree."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.synthetic.coins import Coins
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore


@METRICS.register("coin_distance")
class CoinDistance(Metric):
    """Total-variation distance to fair coins that always agree, with the shares of all-heads and all-tails.

    Independent coins score 0.5, and so does a generator that always draws heads; 0 is exact.
    """

    directions: ClassVar = {"coin_tv": "lower", "heads": "info", "tails": "info"}

    class Config(MetricConfig):
        type: Literal["coin_distance"] = "coin_distance"

        def refuses(self, to_score: ToScore) -> str | None:
            return None if issubclass(to_score.data, Coins) else "it scores the coins dataset only"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.count = self.heads = self.tails = 0

    def update(self, samples: Tensor) -> None:
        self.count += samples.shape[0]
        self.heads += int((samples == 1).all(1).sum())
        self.tails += int((samples == 0).all(1).sum())

    def compute(self) -> dict[str, float]:
        heads, tails = self.heads / self.count, self.tails / self.count
        distance = (abs(heads - 0.5) + abs(tails - 0.5) + (1 - heads - tails)) / 2
        return {"coin_tv": distance, "heads": heads, "tails": tails}

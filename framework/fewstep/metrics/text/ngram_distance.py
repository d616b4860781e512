"""Distance of n-gram frequencies to a known distribution."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.synthetic.source import Source
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.runtime.seeding import generator_for


@METRICS.register("ngram_distance")
class NgramDistance(Metric):
    """Total-variation distance between the n-gram frequencies of the samples and their exact probabilities.

    `ngram_tv_floor` is the score of the same number of exact samples. Values below it cannot be distinguished.
    """

    directions: ClassVar = {"ngram_tv": "lower", "ngram_tv_floor": "info"}
    words: ClassVar = {"ngram_tv": "distance to the data (n-grams)"}

    class Config(MetricConfig):
        type: Literal["ngram_distance"] = "ngram_distance"
        order: int = Field(4, ge=1, le=6, description="tokens in an n-gram")

        def refuses(self, to_score: ToScore) -> str | None:
            known = issubclass(to_score.data, Source)
            return None if known else "it needs a source whose distribution is known (markov)"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        assert isinstance(dataset, Source)
        self.probs = dataset.ngram_probs(self.config.order).flatten()
        self.counts = torch.zeros_like(self.probs)
        self.samples = 0

    def update(self, samples: Tensor) -> None:
        self.counts += self._count(samples.cpu())
        self.samples += samples.shape[0]

    def compute(self) -> dict[str, float]:
        exact = self.dataset.draw(self.samples, generator_for(0, "ngram_floor"))  # type: ignore[attr-defined]
        return {"ngram_tv": self._distance(self.counts), "ngram_tv_floor": self._distance(self._count(exact))}

    def _count(self, tokens: Tensor) -> Tensor:
        """How often each n-gram occurs, float64 [V ** order]."""
        index = torch.zeros_like(tokens[:, self.config.order - 1 :])
        for offset in range(self.config.order):
            window = tokens[:, offset : offset + index.shape[1]]
            index = index * self.dataset.spec.vocab_size + window
        return torch.bincount(index.flatten(), minlength=len(self.probs)).double()

    def _distance(self, counts: Tensor) -> float:
        return float((counts / counts.sum() - self.probs).abs().sum() / 2)

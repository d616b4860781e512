"""Share of n-grams that are distinct."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.metrics.base import METRICS, CollectingMetric, MetricConfig
from fewstep.metrics.reference import real_samples
from fewstep.metrics.text.ngrams import ngram_mask, ngram_numbers


@METRICS.register("distinct_ngrams")
class DistinctNgrams(CollectingMetric):
    """Distinct n-grams over all n-grams of the samples together (distinct-n, arXiv 1510.03055), for n = 1 to 4.

    `_data` is the share of the same number of real samples. The share falls with the number of samples, so compare only
    at one number. Noise fools it: random tokens score higher than data, so read it with a value of quality.
    """

    directions: ClassVar = {f"distinct_{n}{end}": "info" for n in (1, 2, 3, 4) for end in ("", "_data")}

    class Config(MetricConfig):
        type: Literal["distinct_ngrams"] = "distinct_ngrams"

    config: Config

    def compute(self) -> dict[str, float]:
        samples = self.samples
        real = real_samples(self.dataset, len(samples))
        return {
            f"distinct_{n}{end}": distinct(rows, n, self.dataset.text_mask(rows))
            for n in (1, 2, 3, 4)
            for end, rows in (("", samples), ("_data", real))
        }


def distinct(samples: Tensor, n: int, text: Tensor) -> float:
    """Distinct n-grams over n-grams of the texts (`text` [N, L] is true) of samples [N, L]; 0 if all are shorter."""
    if samples.shape[1] < n:
        return 0.0
    numbers = ngram_numbers(samples, n=n)[0][ngram_mask(text, n)]
    return len(torch.unique(numbers)) / max(1, numbers.numel())

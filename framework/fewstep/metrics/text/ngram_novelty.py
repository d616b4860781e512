"""Share of n-grams that do not occur in the training data."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.metrics.base import METRICS, CollectingMetric, MetricConfig
from fewstep.metrics.reference import real_samples
from fewstep.metrics.text.ngrams import ngram_mask, ngram_numbers

_SIZES = (2, 4, 8)


@METRICS.register("ngram_novelty")
class NgramNovelty(CollectingMetric):
    """Share of the samples' n-grams that occur in no training sample, for n = 2, 4 and 8 (arXiv 2111.09509).

    `_data` is the share of the same number of held-out samples. Without held-out samples it is that of the last tenth
    of the training samples against the other nine tenths. A generator far below it recites. Noise is novel and fools
    it, so read it with a value of quality; `longest_copy` measures the length of recited spans.
    """

    directions: ClassVar = {f"novel_{n}{end}": "info" for n in _SIZES for end in ("", "_data")}

    class Config(MetricConfig):
        type: Literal["ngram_novelty"] = "ngram_novelty"

    config: Config

    def compute(self) -> dict[str, float]:
        samples, train = self.samples, self.dataset.train[:].long()
        if self.dataset.held_out is None:
            cut = len(train) - max(1, len(train) // 10)
            real, reference = train[cut:], train[:cut]
        else:
            real, reference = real_samples(self.dataset, len(samples)), train
        return {
            f"novel_{n}{end}": novelty(rows, source, n, *map(self.dataset.text_mask, (rows, source)))
            for n in _SIZES
            for end, rows, source in (("", samples, train), ("_data", real, reference))
        }


def novelty(samples: Tensor, source: Tensor, n: int, text: Tensor, source_text: Tensor) -> float:
    """Share of the n-grams of samples [N, L] that occur in no row of `source` [M, L]; 0 if there are none.

    Args:
        text: BoolTensor [N, L], tokens of the samples that are no padding.
        source_text: BoolTensor [M, L], the same of the source.
    """
    if samples.shape[1] < n:
        return 0.0
    ours, theirs = ngram_numbers(samples, source, n=n)
    ours, theirs = ours[ngram_mask(text, n)], theirs[ngram_mask(source_text, n)]
    return float((~torch.isin(ours, theirs)).double().mean()) if len(ours) else 0.0

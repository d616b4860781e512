"""Similarity of samples to each other."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.metrics.base import METRICS, CollectingMetric, MetricConfig
from fewstep.metrics.reference import real_samples
from fewstep.metrics.text.ngrams import ngram_mask, ngram_numbers


@METRICS.register("self_bleu")
class SelfBleu(CollectingMetric):
    """Mean BLEU of each sample against all others (Texygen, arXiv 1802.01886): high if samples repeat each other.

    BLEU is the geometric mean of the clipped precisions of n-grams of 1 to `order` tokens, 0 if one of them is 0
    (Papineni et al. 2002). There is no brevity penalty. Padding does not count, and a text of fewer than n tokens has
    precision 0 for n-grams. `self_bleu_data` is the
    value of the same number of real samples. It grows with the number of samples, so compare only at one number. Noise
    repeats nothing and fools it, so read it with a value of quality.
    """

    directions: ClassVar = {"self_bleu": "info", "self_bleu_data": "info"}
    words: ClassVar = {"self_bleu": "likeness of samples to each other"}

    class Config(MetricConfig):
        type: Literal["self_bleu"] = "self_bleu"
        order: int = Field(4, ge=1, le=8, description="tokens of the longest n-grams")
        most: int = Field(500, ge=2, description="first samples that are compared; time grows with this")

    config: Config

    def compute(self) -> dict[str, float]:
        samples = self.samples[: self.config.most]
        if len(samples) < 2:
            raise UserError("self_bleu: one sample has no other to be compared with; draw more")
        order = min(self.config.order, samples.shape[1])
        sides = (samples, real_samples(self.dataset, len(samples)))
        values = [self_bleu(rows, order, self.dataset.text_mask(rows)) for rows in sides]
        return dict(zip(self.directions, values, strict=True))


def self_bleu(samples: Tensor, order: int, text: Tensor) -> float:
    """Mean over samples [N, L] of BLEU against all others, with n-grams of 1 to `order` tokens where `text` is true."""
    logs = torch.zeros(len(samples), dtype=torch.float64)
    for n in range(1, order + 1):
        logs += _clipped_precision(ngram_numbers(samples, n=n)[0], ngram_mask(text, n)).log() / order
    return float(logs.exp().mean())


def _clipped_precision(numbers: Tensor, where: Tensor) -> Tensor:
    """Share of each row's n-grams that some other row matches, clipped at that row's count (float64 [N]).

    Args:
        where: BoolTensor, n-grams that count, in the shape of `numbers`.
    """
    rows = torch.arange(len(numbers))[:, None].expand_as(numbers)
    keys, counts = torch.unique(torch.stack((numbers[where], rows[where])), dim=1, return_counts=True)
    grams, owners = keys
    # The largest and the second largest count of every n-gram over the rows: a row's own count does not serve as its
    # reference, so the row with the largest count is compared with the second largest.
    order = torch.argsort(counts, descending=True, stable=True)
    order = order[torch.argsort(grams[order], stable=True)]
    starts = torch.ones_like(grams, dtype=torch.bool)
    starts[1:] = grams[order][1:] != grams[order][:-1]
    first = torch.nonzero(starts)[:, 0]
    last = torch.cat((first[1:], torch.tensor([len(grams)])))
    ranked = counts[order]
    second = torch.where(last - first > 1, ranked[(first + 1).clamp_max(len(grams) - 1)], 0)
    place = torch.cumsum(starts, 0) - 1
    references = torch.where(starts, second[place], ranked[first][place])
    matched = torch.minimum(ranked, references).double()
    totals = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, owners[order], matched)
    return totals / where.sum(1).clamp_min(1)

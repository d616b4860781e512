"""Entropy of single samples."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.metrics.base import METRICS, Metric, MetricConfig


@METRICS.register("sample_entropy")
class SampleEntropy(Metric):
    """Shannon entropy in nats of the token counts within one sample, averaged over samples.

    Padding does not count. Samples that repeat themselves score low; `entropy_data` is the value of the training data.
    """

    directions: ClassVar = {"sample_entropy": "info", "entropy_data": "info"}
    words: ClassVar = {"sample_entropy": "diversity of samples (entropy)"}

    class Config(MetricConfig):
        type: Literal["sample_entropy"] = "sample_entropy"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.values: list[Tensor] = []

    def update(self, samples: Tensor) -> None:
        samples = samples.cpu()
        self.values.append(row_entropy(samples, self.dataset.spec.vocab_size, self.dataset.text_mask(samples)))

    def compute(self) -> dict[str, float]:
        rows = self.dataset.train[:2000].long()
        data = row_entropy(rows, self.dataset.spec.vocab_size, self.dataset.text_mask(rows))
        return {"sample_entropy": float(torch.cat(self.values).mean()), "entropy_data": float(data.mean())}


def row_entropy(tokens: Tensor, vocab_size: int, text: Tensor) -> Tensor:
    """Entropy in nats of the token counts of each row (float64 [N]) of ids [N, L], where `text` [N, L] is true."""
    counts = torch.zeros(tokens.shape[0], vocab_size, dtype=torch.float64)
    counts.scatter_add_(1, tokens, text.double())
    return torch.special.entr(counts / text.sum(1, keepdim=True)).sum(1)

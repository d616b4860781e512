"""Negative log-likelihood of samples under the true distribution."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.synthetic.source import Source
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore


@METRICS.register("exact_nll")
class ExactNLL(Metric):
    """Negative log-likelihood of the samples under the true source, in nats a token.

    `nll_data` is the source's own value, its entropy rate: above it samples are wrong, below it they lack variety.
    """

    directions: ClassVar = {"exact_nll": "info", "nll_data": "info"}

    class Config(MetricConfig):
        type: Literal["exact_nll"] = "exact_nll"

        def refuses(self, to_score: ToScore) -> str | None:
            known = issubclass(to_score.data, Source)
            return None if known else "it needs a source whose distribution is known (markov)"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.values: list[Tensor] = []

    def update(self, samples: Tensor) -> None:
        self.values.append(self._nll(samples.cpu()))

    def compute(self) -> dict[str, float]:
        data = self._nll(self.dataset.train[:10000])
        return {"exact_nll": float(torch.cat(self.values).mean()), "nll_data": float(data.mean())}

    def _nll(self, tokens: Tensor) -> Tensor:
        assert isinstance(self.dataset, Source)
        return -self.dataset.log_likelihood(tokens) / tokens.shape[1]

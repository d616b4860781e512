"""Share of checks that do not follow from their keys."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.metrics.base import METRICS, CollectingMetric, MetricConfig, ToScore
from fewstep_orders.keys_and_checks import KeysAndChecks


@METRICS.register("broken_checks")
class BrokenChecks(CollectingMetric):
    """Share of wrong checks in samples of `keys_and_checks`, and the entropy of single keys beside it.

    Independent tokens score 1 - 1 / V. The keys of the source have entropy ln V.
    """

    directions: ClassVar = {"broken_checks": "lower", "key_entropy": "info"}
    beside: ClassVar = {"broken_checks": "key_entropy"}

    class Config(MetricConfig):
        type: Literal["broken_checks"] = "broken_checks"

        def refuses(self, to_score: ToScore) -> str | None:
            return None if issubclass(to_score.data, KeysAndChecks) else "it scores keys_and_checks only"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        assert isinstance(dataset, KeysAndChecks)
        self.source = dataset

    def compute(self) -> dict[str, float]:
        keys, checks = self.source.split(self.samples)
        counts: Tensor = torch.stack([(keys == symbol).sum(0) for symbol in range(self.source.spec.vocab_size)])
        shares = counts.double() / len(keys)
        entropy = -torch.special.xlogy(shares, shares).sum(0).mean()
        broken = (self.source.checks_of(keys) != checks).double().mean()
        return {"broken_checks": float(broken), "key_entropy": float(entropy)}

"""Metrics that ask a reference model: an autoregressive network that was trained on the same data."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fewstep.autoregressive import check_autoregressive
from fewstep.component import ComponentConfig
from fewstep.data.base import Dataset
from fewstep.denoiser import Denoiser
from fewstep.metrics.base import Metric
from fewstep.seeding import generator_for


class ReferenceConfig(ComponentConfig):
    """Settings of every metric that has a reference."""

    reference: str = Field(
        description="run or exported file of an autoregressive model of the same data; in a suite also one of its cases"
    )
    batch_size: int = Field(100, ge=1, description="samples that the reference reads at once")


class ReferenceMetric(Metric):
    """Keeps the samples, and compares them with as many real ones: held-out data, or else training data.

    Args:
        reference: what `config.reference` names.

    Raises:
        UserError: the reference is no autoregressive model.
    """

    def __init__(self, config: Any, *, dataset: Dataset, reference: Denoiser) -> None:
        super().__init__(config, dataset=dataset)
        check_autoregressive(reference, f"{config.type}: the reference '{config.reference}'")
        self.reference = reference
        self.seen: list[Tensor] = []

    def update(self, samples: Tensor) -> None:
        self.seen.append(samples.cpu())

    def real(self, count: int) -> Tensor:
        """Up to `count` different real samples, always the same ones (LongTensor [N, L])."""
        source = self.dataset.train if self.dataset.held_out is None else self.dataset.held_out
        return source[torch.randperm(len(source), generator=generator_for(0, "metric/real"))[:count]].long()

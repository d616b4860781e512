"""Metrics: numbers that say how good and how varied samples are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewstep.component import Component
from fewstep.data.base import Dataset
from fewstep.registry import Registry


class Metric(Component, ABC):
    """Scores samples against a dataset: feed batches to `update`, then read `compute`.

    `directions` names every value that `compute` returns and which way is better ("info": neither).
    """

    directions: ClassVar[Mapping[str, Literal["lower", "higher", "info"]]]

    def __init__(self, config: Any, *, dataset: Dataset) -> None:
        super().__init__(config)
        self.dataset = dataset

    @classmethod
    def unsuited(cls, dataset_type: type[Dataset]) -> str | None:
        """Why this metric cannot score samples of that dataset, or None if it can."""
        return None

    @abstractmethod
    def update(self, samples: Tensor) -> None:
        """Add samples (LongTensor [N, L])."""

    def update_labelled(self, samples: Tensor, labels: Tensor | None) -> None:
        """What scoring calls: `update`, for a metric to which it matters which class [N] was asked for, if any was."""
        self.update(samples)

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values over everything added since construction."""


class CollectingMetric(Metric):
    """A metric of all samples together: it keeps them (`seen`, LongTensors [N, L] on the CPU) until `compute`."""

    def __init__(self, config: Any, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.seen: list[Tensor] = []

    def update(self, samples: Tensor) -> None:
        self.seen.append(samples.cpu())

    @property
    def samples(self) -> Tensor:
        """All of them, LongTensor [N, L]."""
        return torch.cat(self.seen)


METRICS: Registry[Metric] = Registry("metric", Metric, "fewstep.metrics")

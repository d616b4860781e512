"""A metric of single samples."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from fewstep import METRICS, Dataset, Metric, MetricConfig


@METRICS.register("palindromes")
class Palindromes(Metric):
    """Share of samples that read the same from both ends."""

    directions: ClassVar = {"palindromes": "info"}

    class Config(MetricConfig):
        type: Literal["palindromes"] = "palindromes"

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.hits, self.samples = 0, 0

    def update(self, samples: Tensor) -> None:
        self.hits += int((samples == samples.flip(1)).all(1).sum())
        self.samples += len(samples)

    def compute(self) -> dict[str, float]:
        return {"palindromes": self.hits / self.samples}

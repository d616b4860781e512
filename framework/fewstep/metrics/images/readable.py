"""Share of pictures that can be read."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.images.features import classifier_for, needs_labelled_images


@METRICS.register("readable")
class Readable(Metric):
    """Share of samples that a small classifier names with confidence.

    It is no judge of pictures that look like no class at all, since it was shown none. Real samples do not reach 1
    either: compare with theirs.
    """

    directions: ClassVar = {"readable": "higher"}
    words: ClassVar = {"readable": "share of pictures that can be read"}

    class Config(MetricConfig):
        type: Literal["readable"] = "readable"
        confidence: float = Field(
            0.9, gt=0, lt=1, description="probability of the most likely class from which on a sample counts"
        )

        def refuses(self, to_score: ToScore) -> str | None:
            return needs_labelled_images(to_score.data)

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.classifier = classifier_for(dataset)
        self.named, self.total = 0, 0

    def update(self, samples: Tensor) -> None:
        images = image_data(self.dataset).to_images(samples.cpu())
        self.named += int((self.classifier.confidence(images) >= self.config.confidence).sum())
        self.total += len(samples)

    def compute(self) -> dict[str, float]:
        return {"readable": self.named / self.total}

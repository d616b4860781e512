"""How many classes the samples cover, and how evenly."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.images.features import classifier_for, needs_labelled_images


@METRICS.register("class_coverage")
class ClassCoverage(Metric):
    """Number of classes that hold at least 1 % of the samples, and the entropy of the shares; both show a collapse."""

    directions: ClassVar = {"classes_covered": "higher", "class_entropy": "higher"}
    words: ClassVar = {"class_entropy": "diversity of classes (entropy)"}

    class Config(MetricConfig):
        type: Literal["class_coverage"] = "class_coverage"

        def refuses(self, to_score: ToScore) -> str | None:
            return needs_labelled_images(to_score.data)

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.classifier = classifier_for(dataset)
        self.counts = torch.zeros(self.classifier.head.out_features, dtype=torch.float64)

    def update(self, samples: Tensor) -> None:
        images = image_data(self.dataset).to_images(samples.cpu())
        self.counts += torch.bincount(self.classifier.classify(images), minlength=len(self.counts))

    def compute(self) -> dict[str, float]:
        shares = self.counts / self.counts.sum()
        covered = float((shares >= 0.01).sum())
        return {"classes_covered": covered, "class_entropy": float(torch.special.entr(shares).sum())}

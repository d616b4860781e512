"""Frechet distance in the features of a small classifier."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.images.features import classifier_for, needs_labelled_images


@METRICS.register("feature_frechet")
class FeatureFrechet(Metric):
    """Frechet distance between samples and training data in the features of a classifier trained on that data.

    Not FID: the features are not Inception's, and figures compare only within one dataset and sample count.
    """

    directions: ClassVar = {"feature_frechet": "lower"}
    words: ClassVar = {"feature_frechet": "distance to the data (Frechet)"}

    class Config(MetricConfig):
        type: Literal["feature_frechet"] = "feature_frechet"

        def refuses(self, to_score: ToScore) -> str | None:
            return needs_labelled_images(to_score.data)

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.classifier = classifier_for(dataset)
        self.real = self._features(image_data(dataset).originals(slice(None)))
        self.batches: list[Tensor] = []

    def update(self, samples: Tensor) -> None:
        self.batches.append(self._features(image_data(self.dataset).to_images(samples.cpu())))

    def compute(self) -> dict[str, float]:
        return {"feature_frechet": frechet_distance(torch.cat(self.batches), self.real)}

    def _features(self, images: Tensor) -> Tensor:
        return self.classifier.features(images)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two feature sets [N, F], float64."""
    mean = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * cross)

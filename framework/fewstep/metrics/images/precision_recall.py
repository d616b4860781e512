"""Improved precision and recall of images."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fewstep.metrics.base import METRICS
from fewstep.metrics.images.feature_manifold import ManifoldConfig, ManifoldMetric
from fewstep.metrics.images.manifolds import precision


@METRICS.register("precision_recall")
class PrecisionRecall(ManifoldMetric):
    """Share of samples on the manifold of real ones, and of real ones on that of samples (arXiv 1904.06991).

    The features are those of a classifier trained on these data, so figures compare only within one dataset and sample
    count. Copies, or one good picture, fool precision; recall shows that. A few samples far off, whose balls reach over
    everything, fool recall; `density_coverage` is robust to them.
    """

    directions: ClassVar = {"precision": "higher", "recall": "higher"}
    words: ClassVar = {
        "precision": "share of samples that are like data",
        "recall": "share of data that are like samples",
    }

    class Config(ManifoldConfig):
        type: Literal["precision_recall"] = "precision_recall"
        neighbours: int = Field(3, ge=1, description="k: a ball reaches to the k-th nearest neighbour")

    config: Config

    def compute(self) -> dict[str, float]:
        samples, real = self.sides()
        k = self.config.neighbours
        return {"precision": precision(samples, real, k), "recall": precision(real, samples, k)}

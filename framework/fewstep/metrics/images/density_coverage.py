"""Density and coverage of images."""

from __future__ import annotations

from typing import ClassVar, Literal

from fewstep.metrics.base import METRICS
from fewstep.metrics.images.feature_manifold import ManifoldConfig, ManifoldMetric
from fewstep.metrics.images.manifolds import coverage, density


@METRICS.register("density_coverage")
class DensityCoverage(ManifoldMetric):
    """Number of real balls that hold a sample, over k, and the share of real balls that hold any (arXiv 2002.09797).

    The features are those of a classifier trained on these data, so figures compare only within one dataset and sample
    count. Real samples have a density of 1 on average and, with k = 5, a coverage of 0.97. Samples that crowd where
    real ones do fool density, which then exceeds 1. Copies of training data fool coverage if it is measured against
    training data; `nearest_neighbour` detects copies.
    """

    directions: ClassVar = {"density": "info", "coverage": "higher"}
    words: ClassVar = {"coverage": "share of the data that samples cover"}

    class Config(ManifoldConfig):
        type: Literal["density_coverage"] = "density_coverage"

    config: Config

    def compute(self) -> dict[str, float]:
        samples, real = self.sides()
        k = self.config.neighbours
        return {"density": density(samples, real, k), "coverage": coverage(samples, real, k)}

"""Base of metrics on manifolds of features."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.images.base import image_data
from fewstep.metrics.base import CollectingMetric, MetricConfig, ToScore
from fewstep.metrics.images.features import classifier_for, needs_labelled_images
from fewstep.metrics.reference import real_images


class ManifoldConfig(MetricConfig):
    """Settings of metrics on manifolds."""

    neighbours: int = Field(5, ge=1, description="k: a ball reaches to the k-th nearest neighbour")
    most: int = Field(10_000, ge=2, description="first samples that are compared, with the same number of real ones")

    def refuses(self, to_score: ToScore) -> str | None:
        return needs_labelled_images(to_score.data)


class ManifoldMetric(CollectingMetric):
    """Compares features [N, F] of samples and of the same number of real ones, by a classifier of these data."""

    config: ManifoldConfig

    def sides(self) -> tuple[Tensor, Tensor]:
        """Features of samples and of real samples.

        Raises:
            UserError: either set is too small for k-th nearest neighbours.
        """
        samples = self.samples[: self.config.most]
        dataset = self.dataset
        real = real_images(dataset, len(samples))
        if min(len(samples), len(real)) <= self.config.neighbours:
            raise UserError(
                f"{self.config.type}: {len(samples)} samples and {len(real)} real ones are "
                f"too few for neighbours up to number {self.config.neighbours}; draw more, or lower `neighbours`"
            )
        images = image_data(dataset).to_images(samples)
        classifier = classifier_for(dataset)
        return classifier.features(images), classifier.features(real)

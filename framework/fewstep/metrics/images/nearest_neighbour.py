"""Distance of samples to the training set, which shows memorisation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import ImageDataset
from fewstep.metrics.base import METRICS, Metric, MetricConfig

_PADDING = -1


@METRICS.register("nearest_neighbour")
class NearestNeighbour(Metric):
    """Mean distance from a sample to its nearest training sample, and the share of exact copies.

    The distance of images is Euclidean, of pixels in [0, 1]; that of other data is the share of tokens that differ, of
    those of the longer text where samples are padded.
    `nn_data` is the same distance for training samples, each to its nearest other one. Samples far below it are
    memorised.
    """

    directions: ClassVar = {"nn_distance": "info", "nn_data": "info", "copies": "lower"}

    class Config(MetricConfig):
        type: Literal["nearest_neighbour"] = "nearest_neighbour"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.reference = self._points(
            dataset.train[:], dataset.originals(slice(None)) if isinstance(dataset, ImageDataset) else None
        )
        self.nearest: list[Tensor] = []

    def _points(self, tokens: Tensor, images: Tensor | None) -> Tensor:
        """Images as rows of pixels; or tokens, padding as -1."""
        if images is not None:
            return images.flatten(1)
        tokens = tokens.cpu().long()
        return tokens.where(self.dataset.text_mask(tokens), _PADDING).float()

    def _distances(self, points: Tensor) -> Tensor:
        """[N, M] distances to the training set."""
        if self.dataset.kind == "image":
            return torch.cdist(points, self.reference, compute_mode="donot_use_mm_for_euclid_dist")
        longer = [(side != _PADDING).sum(1) for side in (points, self.reference)]
        return torch.cdist(points, self.reference, p=0) / torch.maximum(longer[0][:, None], longer[1])

    def update(self, samples: Tensor) -> None:
        dataset = self.dataset
        images = dataset.to_images(samples.cpu()) if isinstance(dataset, ImageDataset) else None
        self.nearest += [self._distances(part).amin(1) for part in self._points(samples, images).split(256)]

    def compute(self) -> dict[str, float]:
        nearest = torch.cat(self.nearest)
        return {
            "nn_distance": float(nearest.mean()),
            "nn_data": self._data_distance(),
            "copies": float((nearest == 0).double().mean()),
        }

    def _data_distance(self) -> float:
        """Mean over up to 1,000 training samples of the second smallest distance (the smallest is to themselves)."""
        parts = self.reference[:1000].split(256)
        return float(torch.cat([self._distances(part).topk(2, largest=False).values[:, 1] for part in parts]).mean())

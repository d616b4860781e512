"""A small classifier trained on a labelled image dataset; its penultimate layer is the feature space of the metrics.

Shapes: N images, C classes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.runtime.seeding import derived_seed, generator_for

_SEED = 0
_EPOCHS = 12
_UPDATES = 1000
"""No epoch starts after this number of updates, which is enough for data larger than the digits."""
_BATCH = 128
_FEATURES = 64
_CHUNK = 4096
"""Images in one pass through the network: all of MNIST would take gigabytes."""


class Classifier(nn.Module):
    """Two convolutions and one hidden layer: images [N, channels, H, W] -> features [N, F] -> logits [N, C]."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.GELU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.GELU(),
            nn.Flatten(),
            nn.Linear(32 * ((height + 1) // 2) * ((width + 1) // 2), _FEATURES), nn.GELU(),
        )  # fmt: skip
        self.head = nn.Linear(_FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """float64 [N, F] on the CPU, without gradients."""
        device = self.head.weight.device
        with torch.no_grad():
            return torch.cat([self.body(part.to(device)).cpu() for part in images.split(_CHUNK)]).double()

    def classify(self, images: Tensor) -> Tensor:
        """Most likely class of each image (LongTensor [N]), on the CPU."""
        return self._logits(images).argmax(1)

    def confidence(self, images: Tensor) -> Tensor:
        """Probability of the most likely class of each image (float [N]), on the CPU."""
        return self._logits(images).softmax(1).amax(1)

    def _logits(self, images: Tensor) -> Tensor:
        device = self.head.weight.device
        with torch.no_grad():
            return torch.cat([self.head(self.body(part.to(device))).cpu() for part in images.split(_CHUNK)])


def classifier_for(dataset: Dataset, device: torch.device | str = "cpu") -> Classifier:
    """The classifier of a labelled image dataset, trained once per process and device, always from the same seed.

    Where all images are of one class it tells turned images apart.

    Metrics train it on the CPU, so that values do not depend on the machine; on a GPU it takes seconds.
    """
    return _trained(DatasetKey(dataset), str(device))


class DatasetKey:
    """Key of a cache that distinguishes datasets by content."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __hash__(self) -> int:
        return hash(self.dataset.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatasetKey) and other.dataset.fingerprint == self.dataset.fingerprint


@lru_cache(maxsize=4)
def _trained(key: DatasetKey, device: str) -> Classifier:
    dataset = key.dataset
    assert dataset.labels is not None
    images, labels = _to_tell_apart(image_data(dataset).originals(slice(None)), dataset.labels)
    images, labels = images.to(device), labels.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(_SEED, "classifier/init"))
        model = Classifier(images.shape[1:], int(labels.max()) + 1).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    order = generator_for(_SEED, "classifier/order")
    with torch.enable_grad():
        for _ in range(min(_EPOCHS, -(-_UPDATES // -(-len(labels) // _BATCH)))):
            for rows in torch.randperm(len(labels), generator=order).split(_BATCH):
                loss = nn.functional.cross_entropy(model.head(model.body(images[rows])), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.requires_grad_(False).eval()


def _to_tell_apart(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images and classes [N] that the classifier learns: those of the data.

    Images of one class would teach it nothing. They are turned instead, and it learns by how much (arXiv 1803.07728):
    by quarter turns, or by half turns if they are not square.
    """
    if int(labels.max()) > 0:
        return images, labels
    turns = (0, 1, 2, 3) if images.shape[2] == images.shape[3] else (0, 2)
    turned = torch.cat([images.rot90(turn, (2, 3)) for turn in turns])
    return turned, torch.arange(len(turns)).repeat_interleave(len(images))


def needs_labelled_images(dataset_type: type[Dataset]) -> str | None:
    """Reason why feature metrics cannot score a dataset, or None."""
    return None if dataset_type.kind == "image" else "it needs labelled images"

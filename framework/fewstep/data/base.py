"""Datasets: clean token sequences, and how to show samples of them to a person.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from torch import Tensor

from fewstep.component import Component
from fewstep.registry import Registry


@dataclass(frozen=True)
class DataSpec:
    """Shape of a dataset: `vocab_size` symbols, `length` tokens a sample, and for images the `grid`
    (height, width, channels) that the tokens fill row by row."""

    vocab_size: int
    length: int
    grid: tuple[int, int, int] | None = None


class Dataset(Component, ABC):
    """Map-style data that fits in memory: `train` is LongTensor [N, L]; `labels` is LongTensor [N] or None.

    `held_out` (LongTensor [M, L] or None) is more of the same, never trained on: metrics score it, so that one knows
    what a generator as good as the data would score.

    A class of data that has labels says so in `labelled`, for recipes are checked before data are read.
    """

    kind: ClassVar[Literal["tokens", "text", "image"]] = "tokens"
    labelled: ClassVar[bool] = False
    spec: DataSpec
    train: Tensor
    labels: Tensor | None = None
    held_out: Tensor | None = None

    def __len__(self) -> int:
        return self.train.shape[0]

    @cached_property
    def classes(self) -> int:
        """Number of classes of labelled data; labels are below it."""
        assert self.labels is not None
        return int(self.labels.max()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the training tokens; stored with every run."""
        return hashlib.sha256(self.train.contiguous().numpy().tobytes()).hexdigest()

    @abstractmethod
    def to_text(self, samples: Tensor) -> list[str]:
        """One readable line or block for each sample (`samples` is LongTensor [N, L])."""

    def symbols(self) -> list[str]:
        """What a person calls each of the V tokens."""
        return [str(token) for token in range(self.spec.vocab_size)]

    def to_images(self, samples: Tensor) -> Tensor | None:
        """Images in [0, 1], float [N, C, H, W], for image data; None otherwise."""
        return None

    def to_drawings(self, samples: Tensor) -> Tensor | None:
        """Pictures of samples that are no images, in [0, 1], float [N, C, H, W]; None where text says it all."""
        return None


DATASETS: Registry[Dataset] = Registry("dataset", Dataset, "fewstep.data")

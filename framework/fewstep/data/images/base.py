"""Image data: samples whose tokens stand for pixels.

Shapes: N samples, L tokens; C, H, W channels, height and width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from fewstep.data.base import Dataset, Pictures, View


class ImageDataset(Dataset):
    """Data whose samples are images; `spec.grid` says how tokens fill them."""

    kind: ClassVar[Literal["tokens", "text", "image"]] = "image"

    @abstractmethod
    def to_images(self, samples: Tensor) -> Tensor:
        """Images in [0, 1], float [N, C, H, W], of LongTensor [N, L]."""

    def originals(self, rows: slice | Tensor, *, held_out: bool = False) -> Tensor:
        """Images of training or held-out samples (`rows` as in `train[rows]`) before they became tokens.

        They differ from `to_images` only if tokens lose detail.
        """
        source = self.held_out if held_out else self.train
        assert source is not None
        return self.to_images(source[rows])

    def views(self) -> Mapping[str, View]:
        return {"images": Pictures(self.to_images)}


def image_data(dataset: Dataset) -> ImageDataset:
    """The dataset, for code that is asked about images only.

    Raises:
        TypeError: it holds no images.
    """
    if not isinstance(dataset, ImageDataset):
        raise TypeError(f"data '{dataset.config.type}' must derive from ImageDataset to have images")
    return dataset

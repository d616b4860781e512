"""Fashion-MNIST: clothes in the format of MNIST."""

from __future__ import annotations

from typing import ClassVar, Literal

from fewstep.data.base import DATASETS
from fewstep.data.images.mnist import Mnist


@DATASETS.register("fashion_mnist")
class FashionMnist(Mnist):
    """Fashion-MNIST (arXiv 1708.07747) from a folder with its IDX files, which have the names of MNIST's.

    Images are read, reduced and quantised as in `mnist`; `download` fetches Fashion-MNIST.
    """

    torchvision_name: ClassVar[str] = "FashionMNIST"

    class Config(Mnist.Config):
        type: Literal["fashion_mnist"] = "fashion_mnist"  # type: ignore[assignment]

    config: Config

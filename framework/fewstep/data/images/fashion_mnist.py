"""Fashion-MNIST: clothes in the format of MNIST."""

from __future__ import annotations

from typing import ClassVar, Literal

from fewstep.data.base import DATASETS
from fewstep.data.images.mnist import Mnist


@DATASETS.register("fashion_mnist")
class FashionMnist(Mnist):
    """Fashion-MNIST (arXiv 1708.07747) from a folder with its IDX files, which are named like MNIST's.

    Read, reduced and quantised as `mnist` is; `download` fetches it in the place of MNIST.
    """

    torchvision_name: ClassVar[str] = "FashionMNIST"

    class Config(Mnist.Config):
        type: Literal["fashion_mnist"] = "fashion_mnist"  # type: ignore[assignment]

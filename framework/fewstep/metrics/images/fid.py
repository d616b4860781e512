"""FID: Frechet distance between samples and training images in the features of Inception (extra `fid`).

Shapes: N images of H x W pixels in C colours, L tokens.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.error import URLError

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.metrics.base import METRICS, CollectingMetric, MetricConfig, ToScore
from fewstep.metrics.images.features import DatasetKey
from fewstep.runtime.hashing import sha256

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""SHA-256 of torch-fidelity's file of weights, those of the network that defines FID."""


@METRICS.register("fid")
class Fid(CollectingMetric):
    """Frechet Inception Distance to all training images (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    Training images are those before tokenization, so that the loss of an image tokenizer counts. Mean and covariance
    are of the 2,048 features of the Inception network of 2015 in torch-fidelity's conversion, by torchmetrics. Images
    are resized as in the original graph. Grey images are repeated in three channels.

    Copies fool it. It falls with the number of samples (papers take 50,000), so figures compare only for the same
    number. Small images are enlarged to 299 pixels, and Inception was not trained on such images.
    """

    directions: ClassVar = {"fid": "lower"}
    words: ClassVar = {"fid": "distance to the data (Inception)"}

    class Config(MetricConfig):
        type: Literal["fid"] = "fid"
        weights: str | None = Field(
            None, description="file of torch-fidelity's Inception weights; downloaded once if left out"
        )
        batch_size: int = Field(50, ge=1, description="images that the network reads at once")

        def refuses(self, to_score: ToScore) -> str | None:
            if to_score.data.kind != "image":
                return "it needs images"
            if not to_score.here:
                return None
            if self.weights is not None and not _missing() and not Path(self.weights).is_file():
                return f"weights: there is no file '{self.weights}'; leave `weights` out to have them downloaded"
            return _missing()

    config: Config

    def compute(self) -> dict[str, float]:
        if min(len(self.samples), len(self.dataset)) < 2:
            raise UserError("fid: one image has no covariance; draw at least two")
        distance = _with_training_images(DatasetKey(self.dataset), self.config.weights, self.config.batch_size)
        distance.reset()  # of earlier samples; the training images stay
        for images in pictures(self.dataset, self.samples, self.config.batch_size):
            distance.update(images.to(distance.device), real=False)
        return {"fid": float(distance.compute())}


def pictures(dataset: Dataset, tokens: Tensor, size: int) -> Iterator[Tensor]:
    """Images of tokens [N, L] as Inception reads them, bytes [n, 3, H, W] with n up to `size`."""
    for part in tokens.split(size):
        yield _as_bytes(image_data(dataset).to_images(part.long()))


def _as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1], float [N, C, H, W] with one or three channels, as bytes [N, 3, H, W]."""
    return (images * 255).round().byte().expand(-1, 3, -1, -1)


@lru_cache(maxsize=2)
def _with_training_images(key: DatasetKey, weights: str | None, size: int) -> FrechetInceptionDistance:
    """torchmetrics' distance with the statistics of the training images, computed once per process."""
    distance, dataset = inception(weights), image_data(key.dataset)
    for first in range(0, len(dataset), size):
        # Originals and not decoded tokens: else the loss of an image tokenizer would not count.
        images = _as_bytes(dataset.originals(slice(first, first + size)))
        distance.update(images.to(distance.device), real=True)
    return distance


def inception(weights: str | None) -> FrechetInceptionDistance:
    """torchmetrics' FrechetInceptionDistance without any images yet, on a GPU if there is one.

    Raises:
        UserError: a package is missing, or the weights can neither be read nor downloaded.
    """
    from fewstep.runtime.device import resolve_device

    if reason := _missing():
        raise UserError(f"fid: {reason}")
    from torchmetrics.image.fid import FrechetInceptionDistance

    file = _downloaded() if weights is None else Path(weights)
    _check_weights(file)
    try:
        # Without anti-aliasing images are resized as by TensorFlow's graph, with which FID was defined.
        distance = FrechetInceptionDistance(
            2048, reset_real_features=False, feature_extractor_weights_path=str(file), antialias=False
        )
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(":")
        raise UserError(f"fid: weights: '{file}' does not fit torch-fidelity's Inception ({reason})") from None
    return distance.to(resolve_device("auto"))


def _missing() -> str | None:
    """Message that names the missing package and the command that installs it; None if none is missing."""
    try:
        import torch_fidelity  # noqa: F401
        import torchmetrics.image.fid  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        return f"it needs torchmetrics and torch-fidelity ({error}): pip install 'fewstep[fid]'"
    return None


def _downloaded() -> Path:
    """torch-fidelity's file of weights in torch's cache, downloaded on first use.

    Raises:
        UserError: the download fails.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as origin

    file = Path(torch.hub.get_dir()) / "checkpoints" / origin.URL_INCEPTION_V3.rsplit("/", 1)[-1]
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(origin.URL_INCEPTION_V3, str(file), SHA256, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"fid: Inception's weights cannot be downloaded ({error}); without a network get "
                f"{origin.URL_INCEPTION_V3} elsewhere and name the file with `weights: FILE`"
            ) from None
    return file


def _check_weights(file: Path) -> None:
    """Read the file as tensors only, since torch-fidelity would execute any pickle in it.

    Raises:
        UserError: the file holds no tensors.
    """
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"fid: weights: '{file}' holds no weights of a network ({reason})") from None
    if sha256(file) != SHA256:
        print(
            f"warning: fid: '{file}' is not torch-fidelity's file of weights (SHA-256 {SHA256[:8]}...); unless it "
            "holds the same weights the value is no FID",
            file=sys.stderr,
            flush=True,
        )

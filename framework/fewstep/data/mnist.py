"""MNIST, or anything else in its file format, from a folder.

Shapes: N images, H, W height and width.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fewstep.component import ComponentConfig
from fewstep.data.base import DATASETS, Dataset, DataSpec
from fewstep.data.files import LocalPath
from fewstep.errors import UserError

_SHADES = " .:-=+*#%@"


@DATASETS.register("mnist")
class Mnist(Dataset):
    """MNIST from a folder with its two IDX files of training images and labels: one token a pixel.

    Images are reduced by averaging over areas, then cut into grey levels of equal width. Fashion-MNIST and others in
    this format can be read as well. The test images are not read.
    """

    kind = "image"
    labelled = True

    class Config(ComponentConfig):
        type: Literal["mnist"] = "mnist"
        path: LocalPath = Field(description="folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz")
        size: int = Field(28, ge=2, le=28, description="pixels a side after averaging; the source has 28")
        levels: int = Field(16, ge=2, le=256, description="grey levels; the source has 256")
        limit: int | None = Field(None, gt=0, description="keep the first images only; null keeps all")
        download: bool = Field(False, description="fetch the files into `path` if they are not there")

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        images, labels = _read(Path(c.path), c.download)
        if min(images.shape[1:]) < c.size:
            raise UserError(f"data.size: the images have {images.shape[1]} x {images.shape[2]} pixels, not {c.size}")
        self.train = _quantised(images[: c.limit], c.size, c.levels)
        self.labels = labels[: c.limit].long()
        self.spec = DataSpec(vocab_size=c.levels, length=c.size**2, grid=(c.size, c.size, 1))

    def to_text(self, samples: Tensor) -> list[str]:
        grey = (samples.double() / (self.config.levels - 1) * (len(_SHADES) - 1)).round().long()
        pictures = grey.view(-1, self.config.size, self.config.size).tolist()
        return ["\n".join("".join(_SHADES[v] for v in row) for row in picture) for picture in pictures]

    def to_images(self, samples: Tensor) -> Tensor:
        return samples.view(-1, 1, self.config.size, self.config.size).float() / (self.config.levels - 1)


def _quantised(images: Tensor, size: int, levels: int) -> Tensor:
    """Bytes [N, H, W] to grey levels, LongTensor [N, size * size]."""
    parts = [functional.adaptive_avg_pool2d(part.float(), size) for part in images.split(4096)]
    return (torch.cat(parts) * levels / 256).long().flatten(1)


def _read(folder: Path, download: bool) -> tuple[Tensor, Tensor]:
    """Training images (bytes [N, H, W]) and labels (bytes [N]).

    Raises:
        UserError: missing files, files that are no IDX files or end early, or not one label an image.
    """
    if download and not any(_candidates(folder, "train-images-idx3")):
        _download(folder)
    image_file, label_file = _find(folder, "train-images-idx3"), _find(folder, "train-labels-idx1")
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(images) != len(labels):
        raise UserError(f"data.path: '{image_file}' has {len(images)} images, '{label_file}' {len(labels)} labels")
    if not len(images):
        raise UserError(f"data.path: '{image_file}' holds no images")
    return images, labels


def _candidates(folder: Path, stem: str) -> list[Path]:
    """The files there that may be the one: packed or not, in the folder itself or where torchvision puts them."""
    places = (folder, folder / "MNIST" / "raw")
    names = [f"{name}-ubyte{packed}" for name in (stem, stem.replace("-idx", ".idx")) for packed in (".gz", "")]
    return [place / name for place in places for name in names if (place / name).is_file()]


def _find(folder: Path, stem: str) -> Path:
    found = _candidates(folder, stem)
    if not found:
        raise UserError(
            f"data.path: no {stem}-ubyte.gz in '{folder}'; set data.path to the folder that holds MNIST, "
            "or data.download to true to fetch it"
        )
    return found[0]


def _download(folder: Path) -> None:
    """Let torchvision fetch MNIST into `folder`.

    Raises:
        UserError: there is no network, or nowhere to write.
    """
    from torchvision.datasets import MNIST

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every mirror that does not answer
            MNIST(str(folder), train=True, download=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).split("\n")[0].rstrip(": ")
        raise UserError(
            f"data.download: could not fetch MNIST into '{folder}' ({reason}); "
            "put its files there by hand, and leave data.download out"
        ) from None


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Bytes of an IDX file, packed with gzip or not, as a uint8 tensor with that many dimensions.

    Raises:
        UserError: unreadable, damaged, not of this kind, or of another length than its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except EOFError:
        raise UserError(f"data.path: '{path}' ends early; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"data.path: '{path}' is not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"data.path: cannot read '{path}': {error.strerror}") from None
    begin, magic = 4 + 4 * dimensions, bytes((0, 0, 8, dimensions))
    if content[:4] != magic:
        raise UserError(
            f"data.path: '{path}' is not an IDX file of bytes in {dimensions} dimensions "
            f"(it begins with {content[:4].hex() or 'nothing'}, not {magic.hex()})"
        )
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, begin, 4)]
    if len(content) - begin != math.prod(shape):
        held = max(0, len(content) - begin)
        raise UserError(f"data.path: '{path}' holds {held} bytes, its header says {math.prod(shape)}; fetch it again")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=begin).copy()).view(shape)

"""MNIST, or other images in its file format, from a folder.

Shapes: N images, H, W height and width.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS, DataSpec
from fewstep.data.images.pixels import AugmentConfig, PixelDataset, no_test_part
from fewstep.runtime.hashing import LocalPath

MAX_BYTES = 1 << 30
"""Limit on the bytes of images or labels; the largest set in this format, EMNIST, has 5.5e8."""


@DATASETS.register("mnist")
class Mnist(PixelDataset):
    """MNIST from a folder with its IDX files of images and labels: one token per pixel.

    Images are reduced by averaging over areas, then quantised to grey levels of equal width. Other images in this
    format can be read as well. The first `held_out` test images are held out, if the folder has a test part.
    """

    torchvision_name: ClassVar[str] = "MNIST"
    """Class of torchvision that downloads the data into a folder of the same name."""

    class Config(AugmentConfig):
        type: Literal["mnist"] = "mnist"
        path: LocalPath = Field(description="folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz")
        size: int = Field(28, ge=2, le=28, description="pixels per side after averaging; the source has 28")
        levels: int = Field(16, ge=2, le=256, description="grey levels; the source has 256")
        limit: int | None = Field(None, gt=0, description="number of first images to keep; null keeps all")
        download: bool = Field(False, description="download the files into `path` if they are missing")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        images, labels = self._read(Path(c.path))
        if min(images.shape[1:]) < c.size:
            raise UserError(f"data.size: the images have {images.shape[1]} x {images.shape[2]} pixels, not {c.size}")
        held_out = self._read_test(Path(c.path), images.shape[1:]) if c.held_out else None
        if held_out is None and c.held_out:
            self.remark = no_test_part(c.held_out, "t10k-images-idx3-ubyte.gz beside the training images would be")
        parts = [_reduced(part, c.size, c.levels) for part in (images[: c.limit], held_out) if part is not None]
        self.set_images(parts[0], labels[: c.limit], parts[1] if len(parts) > 1 else None, c.levels)

    @classmethod
    def outline(cls, config: ComponentConfig) -> DataSpec | None:
        assert isinstance(config, Mnist.Config)
        return DataSpec(config.levels, config.size**2, (config.size, config.size, 1))

    def _read(self, folder: Path) -> tuple[Tensor, Tensor]:
        """Training images (bytes [N, H, W]) and labels (bytes [N]).

        Raises:
            UserError: files are missing, are not IDX files or end early, or the counts of images and labels differ.
        """
        if self.config.download and not any(self._candidates(folder, "train-images-idx3")):
            _download(folder, self.torchvision_name)
        image_file, label_file = (self._find(folder, stem) for stem in ("train-images-idx3", "train-labels-idx1"))
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(images) != len(labels):
            raise UserError(f"data.path: '{image_file}' has {len(images)} images, '{label_file}' {len(labels)} labels")
        if not len(images):
            raise UserError(f"data.path: '{image_file}' holds no images")
        return images, labels

    def _read_test(self, folder: Path, size: torch.Size) -> Tensor | None:
        """The held-out test images (bytes [M, H, W]), or None if there are none."""
        file = next(iter(self._candidates(folder, "t10k-images-idx3")), None)
        images = None if file is None else read_idx(file, 3)[: self.config.held_out]
        if images is not None and images.shape[1:] != size:
            ours, theirs = (f"{height} x {width}" for height, width in (images.shape[1:], size))
            raise UserError(f"data.path: '{file}' has images of {ours} pixels, the training images have {theirs}")
        return images

    def _candidates(self, folder: Path, stem: str) -> list[Path]:
        """Files that fit a name: packed or not, in the folder itself or in torchvision's subfolder."""
        places = (folder, folder / self.torchvision_name / "raw")
        names = [f"{name}-ubyte{packed}" for name in (stem, stem.replace("-idx", ".idx")) for packed in (".gz", "")]
        return [place / name for place in places for name in names if (place / name).is_file()]

    def _find(self, folder: Path, stem: str) -> Path:
        files = self._candidates(folder, stem)
        if not files:
            name = self.torchvision_name
            raise UserError(
                f"data.path: no {stem}-ubyte.gz in '{folder}'; set data.path to the folder that holds {name}, "
                "or data.download to true to fetch it"
            )
        return files[0]


def _reduced(images: Tensor, size: int, levels: int) -> Tensor:
    """Bytes [N, H, W] to grey levels, bytes [N, size, size, 1]."""
    parts = [functional.adaptive_avg_pool2d(part.float(), size) for part in images.split(4096)]
    return (torch.cat(parts) * levels / 256).byte()[..., None]


def _download(folder: Path, name: str) -> None:
    """Let torchvision download a dataset into `folder`.

    Raises:
        UserError: the network cannot be reached, or the folder cannot be written.
    """
    from torchvision import datasets

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints every mirror that does not answer
            getattr(datasets, name)(str(folder), train=True, download=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).split("\n")[0].rstrip(": ")
        raise UserError(
            f"data.download: could not fetch {name} into '{folder}' ({reason}); "
            "put its files there by hand, and leave data.download out"
        ) from None


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Content of an IDX file, packed with gzip or not, as a uint8 tensor with `dimensions` axes.

    Raises:
        UserError: the file is unreadable, damaged, not an IDX file, or of another length than its header says.
    """
    begin, magic = 4 + 4 * dimensions, bytes((0, 0, 8, dimensions))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(begin)
            shape = [int.from_bytes(head[at : at + 4], "big") for at in range(4, begin, 4)]
            size = math.prod(shape) if head[:4] == magic else 0
            # A small packed file may hold any number of bytes. One more than the header says shows that it is too long.
            content = file.read(size + 1) if size <= MAX_BYTES else b""
    except EOFError:
        raise UserError(f"data.path: '{path}' ends early; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"data.path: '{path}' is not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"data.path: cannot read '{path}': {error.strerror}") from None
    if head[:4] != magic:
        raise UserError(
            f"data.path: '{path}' is not an IDX file of bytes in {dimensions} dimensions "
            f"(it begins with {head[:4].hex() or 'nothing'}, not {magic.hex()})"
        )
    if len(head) < begin:
        raise UserError(f"data.path: '{path}' ends early; fetch it again")
    if size > MAX_BYTES:
        raise UserError(f"data.path: '{path}' says that it holds {size:,} bytes, more than the {MAX_BYTES:,} allowed")
    if len(content) != size:
        held = f"more than {size}" if len(content) > size else len(content)
        raise UserError(f"data.path: '{path}' holds {held} bytes, its header says {size}; fetch it again")
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy()).view(shape)

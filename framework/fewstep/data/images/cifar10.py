"""CIFAR-10, from any of its published forms or from a copy as pictures.

Shapes: N images, C channels.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.images.image_folder import read_parts
from fewstep.data.images.picture_files import Form
from fewstep.data.images.pixels import PixelConfig, PixelDataset, no_test_part, quantised, resized, spread, to_grey
from fewstep.runtime.hashing import LocalPath

_SIDE, _CLASSES = 32, 10
_RECORD = 1 + 3 * _SIDE * _SIDE
_PICKLED, _BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
_COPY = "these images are a copy as pictures, maybe lossy ones: figures on them do not compare with published ones"


@DATASETS.register("cifar10")
class Cifar10(PixelDataset):
    """CIFAR-10: 50,000 colour images of 32x32 pixels in ten classes, one token per pixel and channel.

    `path` holds torchvision's files (`cifar-10-batches-py`), the binary version (`cifar-10-batches-bin`), or a copy
    with a train and a test part of class folders, zipped or not. The first are Python pickles, so torchvision unpickles
    them only if their MD5 sums are the published ones. Images are averaged over areas to `size`; test images are held
    out.
    """

    class Config(PixelConfig):
        type: Literal["cifar10"] = "cifar10"
        path: LocalPath = Field(description="folder that holds CIFAR-10")
        size: int = Field(32, ge=2, le=32, description="pixels per side after averaging; the source has 32")
        download: bool = Field(False, description="let torchvision fetch it into `path` if it is not there")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        path = Path(c.path).parent if Path(c.path).name in (_PICKLED, _BINARY) else Path(c.path)
        is_pickled = (path / _PICKLED).is_dir() or c.download
        if is_pickled or (path / _BINARY).is_dir():
            reader = _from_torchvision if is_pickled else _from_binary
            images, labels = self._part(*reader(path, True, c.download), c.limit)
            held_out = self._part(*reader(path, False, c.download), c.held_out)[0] if c.held_out else None
        else:
            images, labels, held_out = _from_copy(path, Form(c.size, c.colour, True), c.limit, c.held_out)
            self.remark = _COPY
            if held_out is None and c.held_out:
                self.remark = f"{_COPY}; {no_test_part(c.held_out, 'a part named test beside train would be')}"
        tests = None if held_out is None else quantised(held_out, c.levels)
        self.set_images(quantised(images, c.levels), labels, tests, c.levels)

    def _part(self, images: Tensor, labels: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
        """`count` of the images (bytes [N, 32, 32, 3]) in the size and colour of the settings, and their labels."""
        rows = spread(len(images), count)
        images = resized(images[rows], self.config.size)
        return (to_grey(images) if self.config.colour == "grey" else images), labels[rows]


def _from_torchvision(path: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Images (bytes [N, 32, 32, 3]) and labels [N] of the training or the test part.

    Raises:
        UserError: files are missing, differ from the published ones, or cannot be fetched.
    """
    from torchvision.datasets import CIFAR10

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            source = CIFAR10(str(path), train=train, download=download)
    except (RuntimeError, OSError) as error:
        if not download:
            raise UserError(
                f"data.path: the files in '{path / _PICKLED}' are not the published ones (their MD5 sums differ); "
                "fetch them again, or set data.download to true"
            ) from None
        reason = str(error).split("\n")[0].rstrip(": ")
        raise UserError(
            f"data.download: could not fetch CIFAR-10 into '{path}' ({reason}); "
            "put it there by hand, and leave data.download out"
        ) from None
    return torch.from_numpy(source.data), torch.tensor(source.targets)


def _from_binary(path: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Images and labels, as `_from_torchvision`, from records of a label and three planes of 32 x 32 bytes.

    Raises:
        UserError: a file is missing, ends early or holds other labels.
    """
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if train else ["test_batch.bin"]
    records = torch.cat([_records(path / _BINARY / name) for name in names])
    images = records[:, 1:].view(-1, 3, _SIDE, _SIDE).permute(0, 2, 3, 1).contiguous()
    return images, records[:, 0].long()


def _records(file: Path) -> Tensor:
    """Records of one file, bytes [N, 3073]."""
    try:
        content = np.frombuffer(file.read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(f"data.path: cannot read '{file}': {error.strerror}") from None
    if not len(content) or len(content) % _RECORD:
        raise UserError(
            f"data.path: '{file}' has {len(content)} bytes, not a multiple of {_RECORD} as CIFAR-10 in its binary "
            "version; fetch it again"
        )
    records = torch.from_numpy(content.copy()).view(-1, _RECORD)
    invalid = (records[:, 0] >= _CLASSES).nonzero()
    if len(invalid):
        index = int(invalid[0])
        raise UserError(
            f"data.path: image {index} of '{file}' has label {int(records[index, 0])}; CIFAR-10 has labels 0 to 9"
        )
    return records


def _from_copy(path: Path, form: Form, limit: int | None, held_out: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images in their final size and colour, labels, and held-out images, from a copy as pictures.

    Raises:
        UserError: the path does not exist, or holds another number of classes.
    """
    if not path.exists():
        raise UserError(
            f"data.path: no folder '{path}'; set data.path to the folder that holds CIFAR-10, "
            "or data.download to true to fetch it"
        )
    images, labels, tests = read_parts(path, form, limit, held_out)
    classes = int(labels.max()) + 1
    if classes != _CLASSES:
        raise UserError(
            f"data.path: '{path}' has pictures of {classes} classes, CIFAR-10 has 10; for others use image_folder"
        )
    return images, labels, tests

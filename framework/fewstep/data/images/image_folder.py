"""Own images: a folder or a .zip with a folder of pictures for each class.

Shapes: N images, S size, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.images.picture_files import Form, PictureFiles
from fewstep.data.images.pixels import PixelConfig, PixelDataset, no_test_part, quantised, spread
from fewstep.runtime.hashing import LocalPath


@DATASETS.register("image_folder")
class ImageFolder(PixelDataset):
    """Pictures from a folder or a .zip with a folder for each class, in the layout of torchvision's ImageFolder.

    If the folder holds two parts, a folder or .zip named with `train` and one named with `test` or `val`, the second
    is held out. Without it, `held_out_share` holds out a share of the pictures. Pictures of another size are scaled to
    the shorter side and cut to the middle square. They are refused if `resize` is false.
    """

    class Config(PixelConfig):
        type: Literal["image_folder"] = "image_folder"
        path: LocalPath = Field(
            description="folder or .zip of class folders, or folder with a train and a test part of that form"
        )
        held_out_share: float = Field(
            0.0, ge=0, lt=1, description="share of the pictures to hold out where there is no test part"
        )
        resize: bool = Field(True, description="scale and crop pictures of another size; false refuses them")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        images, labels, held_out = read_parts(Path(c.path), Form(c.size, c.colour, c.resize), c.limit, c.held_out)
        if held_out is None and c.held_out_share:
            images, labels, held_out = _split(images, labels, c.held_out_share)
        elif held_out is None and c.held_out:
            self.remark = no_test_part(c.held_out, "data.held_out_share holds out a share of the training pictures")
        tests = None if held_out is None else quantised(held_out, c.levels)
        self.set_images(quantised(images, c.levels), labels, tests, c.levels)


def read_parts(path: Path, form: Form, limit: int | None, held_out: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Training images (bytes [N, S, S, C]), their labels [N], and `held_out` test images if there are any.

    Raises:
        UserError: as `PictureFiles` does.
    """
    train, test = find_parts(path)
    files = PictureFiles(train)
    images, labels = files.read(limit, form, files.classes)
    if test is None or not held_out:
        return images, labels, None
    return images, labels, PictureFiles(test).read(held_out, form, files.classes)[0]


def _split(images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Images (bytes [N, S, S, C]) and labels [N] to train on, and held-out images, at even distances.

    Raises:
        UserError: one of the two would be empty.
    """
    count = round(share * len(images))
    if not 0 < count < len(images):
        raise UserError(f"data.held_out_share: {share:g} of {len(images)} images are {count}; both parts need one")
    held_out = torch.zeros(len(images), dtype=torch.bool)
    held_out[spread(len(images), count)] = True
    return images[~held_out], labels[~held_out], images[held_out]


def find_parts(path: Path) -> tuple[Path, Path | None]:
    """Paths of the training images and of the held-out images, if there are any.

    Raises:
        UserError: several paths fit one part.
    """
    if not path.is_dir():
        return path, None
    entries = [entry for entry in sorted(path.iterdir()) if entry.is_dir() or entry.suffix.lower() == ".zip"]
    train = [entry for entry in entries if "train" in entry.name.lower()]
    test = [entry for entry in entries if entry not in train and any(w in entry.name.lower() for w in ("test", "val"))]
    if not train or len(train) + len(test) < len(entries):
        return path, None  # these are folders of classes; one class may be called "trains"
    for candidates in (train, test):
        if len(candidates) > 1:
            names = ", ".join(entry.name for entry in candidates)
            raise UserError(f"data.path: '{path}' holds {names}; set data.path to the one that is meant")
    return train[0], test[0] if test else None

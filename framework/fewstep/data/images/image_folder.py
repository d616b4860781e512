"""Images of one's own: a folder or a .zip with a folder of pictures for each class.

Shapes: N images, S size, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.images.picture_files import Form, PictureFiles
from fewstep.data.images.pixels import PixelConfig, PixelDataset, quantised
from fewstep.runtime.hashing import LocalPath


@DATASETS.register("image_folder")
class ImageFolder(PixelDataset):
    """Pictures from a folder or a .zip that has a folder for each class, laid out as torchvision's ImageFolder is.

    Where the folder holds two parts, named with `train` and `test` (or `val`) and each a folder or a .zip, the second
    is held out. Pictures of another size are scaled until the shorter side fits, then cut to the middle square, or
    refused if `resize` is false.
    """

    class Config(PixelConfig):
        type: Literal["image_folder"] = "image_folder"
        path: LocalPath = Field(
            description="folder or .zip of class folders, or folder with such a train and test part"
        )
        resize: bool = Field(True, description="make pictures of another size fit; false refuses them")

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        images, labels, held_out = read_parts(Path(c.path), Form(c.size, c.colour, c.resize), c.limit, c.held_out)
        tests = None if held_out is None else quantised(held_out, c.levels)
        self.hold(quantised(images, c.levels), labels, tests, c.levels)


def read_parts(path: Path, form: Form, limit: int | None, held_out: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Training images (bytes [N, S, S, C]), their labels [N], and `held_out` test images if there are any.

    Raises:
        UserError: as `PictureFiles` does.
    """
    train, test = _parts(path)
    files = PictureFiles(train)
    images, labels = files.read(limit, form, files.classes)
    if test is None or not held_out:
        return images, labels, None
    return images, labels, PictureFiles(test).read(held_out, form, files.classes)[0]


def _parts(path: Path) -> tuple[Path, Path | None]:
    """Where the training images are, and those that are held out.

    Raises:
        UserError: two places may be meant.
    """
    if not path.is_dir():
        return path, None
    entries = [entry for entry in sorted(path.iterdir()) if entry.is_dir() or entry.suffix.lower() == ".zip"]
    train = [entry for entry in entries if "train" in entry.name.lower()]
    test = [entry for entry in entries if entry not in train and any(w in entry.name.lower() for w in ("test", "val"))]
    if not train or len(train) + len(test) < len(entries):
        return path, None  # folders of classes, one of which may be of trains
    for found in (train, test):
        if len(found) > 1:
            names = ", ".join(entry.name for entry in found)
            raise UserError(f"data.path: '{path}' holds {names}; set data.path to the one that is meant")
    return train[0], test[0] if test else None

"""Pictures in folders, one folder per class, on disk or inside a .zip; each defect is one sentence.

Shapes: N images, S size, C channels.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.images.pixels import spread
from fewstep.runtime.progress import Narrator

_BATCH = 256
"""Pictures decoded between two reports of the progress."""

MAX_PIXELS, MAX_BYTES = 1 << 26, 1 << 28
"""Limits on the pixels of a picture and on the bytes of its file, before it is decoded."""


@dataclass(frozen=True)
class Picture:
    """A picture file: `name` within its folder or archive, and the class of its folder."""

    name: str
    label: str


@dataclass(frozen=True)
class Form:
    """Form of the images in memory: S pixels per side, three channels or one; `resize` scales other sizes."""

    size: int
    colour: Literal["rgb", "grey"]
    resize: bool


class PictureFiles:
    """The pictures below a folder or in an archive, sorted by class and name.

    The class of a picture is the first folder that not all pictures share. Hidden files, and files without the name of
    a picture, are left out.

    Raises:
        UserError: the path does not exist, the archive is damaged, or there are no pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        names = self._names()
        folders = {_folder(name): PurePosixPath(_folder(name)) for name in names}
        if not folders:
            raise UserError(f"data.path: '{path}' holds no pictures ({', '.join(picture_endings())})")
        above = _shared(list(folders.values()))
        if len(folders) > 1 and above in folders.values():
            stray = next(name for name in names if folders[_folder(name)] == above)
            raise UserError(f"data.path: '{path}' has picture '{stray}' beside folders of classes; move it into one")
        labels = {
            folder: place.name if place == above else place.parts[len(above.parts)] for folder, place in folders.items()
        }
        pictures = [Picture(name, labels[_folder(name)]) for name in names]
        self.pictures = sorted(pictures, key=lambda picture: (picture.label, picture.name))

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, in order."""
        return sorted({picture.label for picture in self.pictures})

    def read(self, limit: int | None, form: Form, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Pixels, bytes [N, S, S, C], and class numbers [N] of at most `limit` pictures, evenly spaced; None reads all.

        Raises:
            UserError: a picture cannot be read or does not fit, or its class is not among `classes`.
        """
        unknown = next((label for label in self.classes if label not in classes), None)
        if unknown is not None:
            raise UserError(f"data.path: '{self.path}' has a class '{unknown}', of which there is no training image")
        pictures = [self.pictures[index] for index in spread(len(self.pictures), limit).tolist()]
        images = np.empty((len(pictures), form.size, form.size, 3 if form.colour == "rgb" else 1), np.uint8)
        progress = Narrator(f"reading {self.path.name}", unit="images")
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for first in range(0, len(pictures), _BATCH):
                batch = pictures[first : first + _BATCH]
                for index, pixels in enumerate(pool.map(lambda picture: self._pixels(picture, form), batch), first):
                    images[index] = pixels
                progress(first + len(batch), len(pictures))
        labels = torch.tensor([classes.index(picture.label) for picture in pictures], dtype=torch.long)
        return torch.from_numpy(images), labels

    def shorter_side(self, limit: int) -> int:
        """Pixels of the shorter side of a typical picture: the median of at most `limit` pictures.

        Raises:
            UserError: a picture cannot be read.
        """
        from PIL import Image

        sides = []
        for index in spread(len(self.pictures), limit).tolist():
            name = self.pictures[index].name
            try:
                with Image.open(io.BytesIO(self._content(name))) as opened:
                    sides.append(min(opened.size))
            except _unreadable() as error:
                raise self._damaged(name, error) from None
        return int(np.median(sides))

    def _names(self) -> list[str]:
        if self.path.is_dir():
            files = sorted(file for file in self.path.rglob("*") if file.is_file())
            names = [file.relative_to(self.path).as_posix() for file in files]
        else:
            entries = self._archive.infolist()
            names = [e.filename for e in entries if e.filename and not e.is_dir()]  # a name may be empty
        endings = picture_endings()
        return [name for name in names if name.lower().endswith(endings) and not _hidden(name)]

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        if not self.path.exists():
            raise UserError(f"data.path: no folder or archive '{self.path}'")
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, RuntimeError, ValueError, struct.error):  # or it is of a later version
            raise UserError(f"data.path: '{self.path}' is not a whole .zip archive; fetch it again") from None
        except OSError as error:
            raise UserError(f"data.path: cannot read '{self.path}': {error.strerror}") from None

    def _pixels(self, picture: Picture, form: Form) -> np.ndarray:
        """One picture, bytes [S, S, C].

        Raises:
            UserError: the picture cannot be read, or has another size and `form.resize` is false.
        """
        place = f"image '{picture.name}' of '{self.path}'"
        try:
            return _decoded(self._content(picture.name), form, place)
        except _unreadable() as error:
            raise self._damaged(picture.name, error) from None

    def _damaged(self, name: str, error: Exception) -> UserError:
        place = f"image '{name}' of '{self.path}'"
        return UserError(f"data.path: {place} cannot be read ({_reason(error)}); replace it, or remove it")

    def _content(self, name: str) -> bytes:
        """Bytes of a file; an archive says how many before it unpacks them.

        Raises:
            ValueError: they are too many.
        """
        file = None if not self.path.is_dir() else self.path / name
        size = self._archive.getinfo(name).file_size if file is None else file.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes, more than the {MAX_BYTES:,} that are read")
        return self._archive.read(name) if file is None else file.read_bytes()


def _decoded(content: bytes, form: Form, place: str) -> np.ndarray:
    """Pixels [S, S, C]: turned by the camera's EXIF mark, scaled to a shorter side of S, cut to the middle square."""
    from PIL import Image, ImageOps
    from torchvision.transforms.v2 import functional
    from torchvision.transforms.v2.functional import InterpolationMode as Mode

    with Image.open(io.BytesIO(content)) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(
                f"it has {opened.width * opened.height:,} pixels, more than the {MAX_PIXELS:,} that are read"
            )
        if opened.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels have more than 8 bits, mode {opened.mode}")
        image = ImageOps.exif_transpose(opened).convert("RGB").convert("RGB" if form.colour == "rgb" else "L")
    width, height = image.size
    if (width, height) != (form.size, form.size):
        if not form.resize:
            raise UserError(
                f"data.path: {place} has {height} x {width} pixels, not {form.size} x {form.size}; "
                "set data.resize to true to make all fit"
            )
        shrinks = min(width, height) > form.size
        image = functional.resize(image, [form.size], Mode.BOX if shrinks else Mode.BILINEAR)
        image = functional.center_crop(image, [form.size, form.size])
    return np.asarray(image, np.uint8).reshape(form.size, form.size, -1)


def _unreadable() -> tuple[type[Exception], ...]:
    """Exceptions that reading a damaged picture raises; they depend on the format and the damage."""
    from PIL.Image import DecompressionBombError

    damaged = (zipfile.BadZipFile, zlib.error, struct.error, SyntaxError, EOFError, DecompressionBombError)
    return (*damaged, OSError, ValueError, RuntimeError, KeyError)


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no picture that Pillow knows"  # Pillow's message is the address of an object
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0]


def picture_endings() -> tuple[str, ...]:
    """Endings of the names of pictures, in lower case."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _shared(folders: Sequence[PurePosixPath]) -> PurePosixPath:
    """The deepest folder that contains, or is, each of the folders."""
    shared = folders[0]
    while not all(folder == shared or shared in folder.parents for folder in folders):
        shared = shared.parent
    return shared

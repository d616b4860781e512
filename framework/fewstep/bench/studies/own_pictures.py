"""What a folder or archive of pictures holds."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from fewstep.bench.studies.looked_at import OwnData
from fewstep.core.errors import UserError
from fewstep.data.images.image_folder import find_parts, read_parts
from fewstep.data.images.picture_files import Form, PictureFiles, picture_endings

FEWEST = 200
"""Pictures below which a study says nothing."""
_SEEN = 48
"""Pictures that are looked at."""
_SMALL = 16
"""Pixels a side at which shades are counted."""
_COLOURED = 12.0
"""Mean distance between the channels of a picture in colour, of 255."""


def look_at_pictures(path: Path, colour: Literal["auto", "grey", "rgb"]) -> OwnData:
    """Pictures in one folder or in a folder for each class, on disk or in a .zip.

    Raises:
        UserError: there are too few, or one of those looked at cannot be read.
    """
    train, test = find_parts(path)
    files = PictureFiles(train)
    count = len(files.pictures)
    if count < FEWEST:
        raise UserError(f"--data: '{path}' has {count} pictures, and a study needs {FEWEST} or more; add some")
    rgb, *_ = read_parts(train, Form(_SMALL, "rgb", True), _SEEN, 0)
    pixels = rgb.numpy().astype(np.float64)
    coloured = float(np.ptp(pixels, axis=3).mean()) > _COLOURED
    channels = "rgb" if colour == "rgb" else "grey"
    shades = pixels.mean(3)
    two_tone = float(((shades < 32) | (shades > 223)).mean()) > 0.75
    section: dict[str, object] = {"type": "image_folder", "path": str(path.absolute())}
    section |= {"levels": 4 if two_tone else 8, "colour": channels}
    if test is None:
        section["held_out_share"] = 0.1
    remarks = []
    if coloured and colour == "auto":
        remarks.append(
            "the pictures are in colour and are learned in grey, a third of the tokens; --colour rgb keeps it"
        )
    classes = len(files.classes)
    if classes == 1:
        remarks.append("the pictures have no classes, so the metric's features tell quarter turns of them apart")
    side = files.shorter_side(_SEEN)
    label = f"{count:,} pictures of about {side} pixels a side, {classes} class{'es' * (classes > 1)}"
    return OwnData("pictures", label, section, count, None, tuple(remarks), classes, side)


def holds_pictures(path: Path) -> bool:
    """Whether a folder or archive has files with the names of pictures."""
    if path.is_dir():
        names: Iterable[str] = (file.name for file in path.rglob("*"))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    else:
        return False
    return any(name.lower().endswith(picture_endings()) for name in names)

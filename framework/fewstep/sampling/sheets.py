"""Sample sheets: many samples in one picture or text file, for a person to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import ImageDataset

_CELL = 48
"""Smallest side of an image in pixels; smaller images are enlarged without smoothing."""

_COMPARED_AT_ONCE = 4096
"""Training images per comparison with the samples."""

_MAX_IMAGES = 1000
"""Limit on the samples in a picture; a larger picture is hard to open."""


def image_sheet(images: Tensor, columns: int) -> Tensor:
    """Grid of images: float [N, C, H, W] in [0, 1] -> [3, H', W'], equal to that of torchvision's `make_grid`.

    Importing torchvision takes seconds, as long as all else that drawing samples imports.
    """
    scale = max(1, -(-_CELL // images.shape[-1]))
    enlarged = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    enlarged = enlarged.expand(-1, 3, -1, -1) if images.shape[1] == 1 else enlarged
    if len(enlarged) == 1:
        return enlarged[0]
    padding, (count, _, height, width) = max(2, scale // 2), enlarged.shape
    columns = min(columns, count)
    rows, height, width = -(-count // columns), height + padding, width + padding
    sheet = enlarged.new_full((3, rows * height + padding, columns * width + padding), 0.35)
    for number, image in enumerate(enlarged):
        top, left = number // columns * height + padding, number % columns * width + padding
        sheet[:, top : top + height - padding, left : left + width - padding] = image
    return sheet


def save_sheet(path: Path, dataset: Dataset, samples: Tensor, *, columns: int = 10) -> Path:
    """Write samples (LongTensor [N, L]) as `path`.png for images, else as `path`.txt; returns the written file.

    Data that can be drawn, such as music, get a `path`.png beside the text. Pictures show the first 1,000 samples.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = dataset.pictures(samples[:_MAX_IMAGES].cpu())
    if pictures is not None:
        picture = _save_picture(path, pictures, columns)
        if dataset.kind == "image":
            return picture
    file = path.with_suffix(".txt")
    file.unlink(missing_ok=True)  # in a stranger's folder it may be a link, which writing would follow
    file.write_text("\n\n".join(dataset.to_text(samples)) + "\n", encoding="utf-8")
    return file


def _save_picture(path: Path, images: Tensor, columns: int) -> Path:
    from PIL import Image

    file = path.with_suffix(".png")
    file.unlink(missing_ok=True)
    sheet = image_sheet(images.to(torch.float32), columns)
    Image.fromarray(sheet.mul(255).add(0.5).clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()).save(file)
    return file


def save_nearest_sheet(path: Path, dataset: Dataset, samples: Tensor, *, columns: int = 10) -> Path | None:
    """Write samples (LongTensor [N, L]) as `path`.png, each above its nearest training image; None for other data.

    Distance is Euclidean over pixels, so a copy stands above its original.
    """
    if not isinstance(dataset, ImageDataset):
        return None
    images = dataset.to_images(samples.cpu())
    nearest = dataset.originals(nearest_training(dataset, samples))
    blank = torch.ones_like(images[:1]).expand(-len(images) % columns, *images.shape[1:])
    rows = [torch.cat((side, blank)).split(columns) for side in (images, nearest)]
    path.parent.mkdir(parents=True, exist_ok=True)
    return _save_picture(path, torch.cat([row for pair in zip(*rows, strict=True) for row in pair]), columns)


def nearest_training(dataset: ImageDataset, samples: Tensor) -> Tensor:
    """Rows of the training images nearest to `samples`, LongTensor [N]."""
    images = dataset.to_images(samples.cpu())
    best = torch.full((len(images),), float("inf"))
    nearest = torch.zeros(len(images), dtype=torch.long)
    for first in range(0, len(dataset), _COMPARED_AT_ONCE):
        part = dataset.originals(slice(first, first + _COMPARED_AT_ONCE))
        distances = torch.cdist(images.flatten(1), part.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        distance, row = distances.min(1)
        nearest = torch.where(distance < best, row + first, nearest)
        best = torch.minimum(best, distance)
    return nearest

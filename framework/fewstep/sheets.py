"""Sample sheets: many samples on one picture or page, for a person to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.base import Dataset

_CELL = 48
"""Images are enlarged, without smoothing, to at least this many pixels a side."""

_MOST = 1000
"""Samples on a picture; with more of them it is too large to open."""


def image_sheet(images: Tensor, columns: int) -> Tensor:
    """Grid of images: float [N, C, H, W] in [0, 1] -> [3, H', W']."""
    from torchvision.utils import make_grid

    scale = max(1, -(-_CELL // images.shape[-1]))
    enlarged = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return make_grid(enlarged, nrow=columns, padding=max(2, scale // 2), pad_value=0.35)


def save_sheet(path: Path, dataset: Dataset, samples: Tensor, *, columns: int = 10) -> Path:
    """Write samples (LongTensor [N, L]) as `path`.png for images or `path`.txt otherwise; returns what was written.

    Data that can be drawn, such as music, get a `path`.png beside the text. Pictures show the first 1,000.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = dataset.to_images(samples[:_MOST].cpu())
    if images is not None:
        return _save_picture(path, images, columns)
    drawings = dataset.to_drawings(samples[:_MOST].cpu())
    if drawings is not None:
        _save_picture(path, drawings, columns)
    file = path.with_suffix(".txt")
    file.write_text("\n\n".join(dataset.to_text(samples)) + "\n", encoding="utf-8")
    return file


def _save_picture(path: Path, images: Tensor, columns: int) -> Path:
    from torchvision.utils import save_image

    file = path.with_suffix(".png")
    save_image(image_sheet(images.to(torch.float32), columns), file)
    return file

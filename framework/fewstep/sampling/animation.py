"""Animations of sampling: a GIF of images, or a page on which text appears.

Shapes: K samples, L tokens, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.samplers.base import OnStep, StepState
from fewstep.sampling.folder import GIF, PAGE
from fewstep.sampling.page import page
from fewstep.sampling.sheets import image_sheet

T = TypeVar("T")
IMAGES, TEXTS, COLUMNS = 40, 4, 10
"""Limits on the samples of an animation: a sheet of four rows of images, or the texts that fit on a page."""
_MASK = (0.16, 0.30, 0.55)
"""Colour of masked pixels; grey images never contain it."""
_BAR, _BAR_COLOUR = 6, (0.95, 0.60, 0.10)
_PLAY_MS, _SHORTEST_MS, _HOLD_MS = 5000, 60, 2500


@dataclass(frozen=True)
class Frame:
    """Tokens at time t (LongTensor [K, L]); tokens >= the size of the vocabulary are masks."""

    t: float
    x: Tensor


def animated_count(dataset: Dataset, count: int) -> int:
    """K, the number of animated samples out of `count`."""
    return min(count, IMAGES if dataset.spec.grid else TEXTS)


def record_frames(draw: Callable[[OnStep], T], start: Tensor | None) -> tuple[T, list[Frame]]:
    """What `draw` returns, and the state after each of its steps, preceded by the noise of its start if it is known."""
    frames = [] if start is None else [Frame(1.0, start.cpu())]

    def append_frame(state: StepState) -> None:
        frames.append(Frame(state.s, state.x.cpu().clone()))

    return draw(append_frame), frames


def file_name(dataset: Dataset) -> str:
    """File name of an animation of such data."""
    return GIF if dataset.spec.grid else PAGE


def animate(
    file: Path, dataset: Dataset, frames: list[Frame], templates: Tensor | None, title: str, columns: int = COLUMNS
) -> None:
    """Write a GIF for images, else a page.

    Args:
        file: destination.
        dataset: data of the model.
        frames: states of the K samples.
        templates: fixed tokens of the K samples (LongTensor [K, L]), -1 where a token was drawn.
        title: heading of the page.
        columns: images beside each other.
    """
    if dataset.spec.grid is not None:
        _gif(file, dataset, frames, columns)
        return
    rows = None if templates is None else templates.tolist()
    tokens = [frame.x.tolist() for frame in frames]
    times = [frame.t for frame in frames]
    text = page(title, dataset.symbols(), times, tokens, rows, flowing=dataset.kind == "text")
    file.write_text(text, encoding="utf-8")


def _gif(file: Path, dataset: Dataset, frames: list[Frame], columns: int) -> None:
    """Write a frame per step, all of the same duration except the last; a bar below shows the progress."""
    from PIL import Image

    last = len(frames) - 1 or 1
    sheets = [_picture(dataset, frame.x, index / last, columns) for index, frame in enumerate(frames)]
    pictures = [Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy()) for sheet in sheets]
    duration = max(_SHORTEST_MS, _PLAY_MS // len(pictures))
    durations = [duration] * (len(pictures) - 1) + [_HOLD_MS]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _picture(dataset: Dataset, x: Tensor, share: float, columns: int) -> Tensor:
    """Sheet of one frame, float [3, H', W'], with masked pixels in their own colour."""
    assert dataset.spec.grid is not None
    height, width, channels = dataset.spec.grid
    masked = x >= dataset.spec.vocab_size
    images = image_data(dataset).to_images(x.masked_fill(masked, 0)).float().expand(-1, 3, -1, -1)
    masked_pixels = masked.view(-1, height, width, channels).any(-1)[:, None]
    # A token may cover several pixels along each side.
    masked_pixels = masked_pixels.repeat_interleave(images.shape[2] // height, 2)
    masked_pixels = masked_pixels.repeat_interleave(images.shape[3] // width, 3)
    sheet = image_sheet(torch.where(masked_pixels, torch.tensor(_MASK)[:, None, None], images), columns)
    bar = torch.full((3, _BAR, sheet.shape[2]), 0.1)
    bar[:, :, : round(share * sheet.shape[2])] = torch.tensor(_BAR_COLOUR)[:, None, None]
    return torch.cat((sheet, bar), 1)

"""How samples come about: a GIF of images, or a page on which text appears.

Shapes: K samples, L tokens, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.samplers.base import OnStep, StepState
from fewstep.sampling.folder import GIF, PAGE
from fewstep.sampling.page import page
from fewstep.sampling.sheets import image_sheet

IMAGES, TEXTS, COLUMNS = 40, 4, 10
"""Samples that are shown: a sheet of four rows, or as many as fit on a page."""
_MASK = (0.16, 0.30, 0.55)
"""A colour that no grey image has."""
_BAR, _BAR_COLOUR = 6, (0.95, 0.60, 0.10)
_PLAY_MS, _SHORTEST_MS, _HOLD_MS = 5000, 60, 2500


@dataclass(frozen=True)
class Frame:
    """Tokens at time t (LongTensor [K, L]); those from the vocabulary's size on are masks."""

    t: float
    x: Tensor


def shown(dataset: Dataset, count: int) -> int:
    """K, of `count` samples."""
    return min(count, IMAGES if dataset.spec.grid else TEXTS)


def record(draw: Callable[[OnStep], Any], start: Tensor | None) -> list[Frame]:
    """The state after each step of `draw`, and before it the noise that it starts from, where that is known."""
    frames = [] if start is None else [Frame(1.0, start.cpu())]

    def note(state: StepState) -> None:
        frames.append(Frame(state.s, state.x.cpu().clone()))

    draw(note)
    return frames


def file_name(dataset: Dataset) -> str:
    """What an animation of such data is called."""
    return GIF if dataset.spec.grid else PAGE


def animate(file: Path, dataset: Dataset, frames: list[Frame], given: Tensor | None, title: str) -> None:
    """Write a GIF for images, else a page.

    Args:
        given: the templates of the K samples (LongTensor [K, L]), if they have any.
        title: stands on the page.
    """
    if dataset.spec.grid is not None:
        _gif(file, dataset, frames)
        return
    known = None if given is None else given.tolist()
    tokens = [frame.x.tolist() for frame in frames]
    times = [frame.t for frame in frames]
    text = page(title, dataset.symbols(), times, tokens, known, flowing=dataset.kind == "text")
    file.write_text(text, encoding="utf-8")


def _gif(file: Path, dataset: Dataset, frames: list[Frame]) -> None:
    """A frame a step, each as long as the others, the last one held; a bar below tells how far it is."""
    from PIL import Image

    sheets = [_picture(dataset, frame.x, index / (len(frames) - 1 or 1)) for index, frame in enumerate(frames)]
    pictures = [Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy()) for sheet in sheets]
    each = max(_SHORTEST_MS, _PLAY_MS // len(pictures))
    durations = [each] * (len(pictures) - 1) + [_HOLD_MS]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _picture(dataset: Dataset, x: Tensor, share: float) -> Tensor:
    """The sheet of one frame, float [3, H', W'], with masked pixels in a colour of their own."""
    assert dataset.spec.grid is not None
    height, width, channels = dataset.spec.grid
    masked = x >= dataset.spec.vocab_size
    images = dataset.to_images(x.masked_fill(masked, 0))
    assert images is not None
    images = images.float().expand(-1, 3, -1, -1)
    holes = masked.view(-1, height, width, channels).any(-1)[:, None]
    # A token may stand for several pixels along each side.
    holes = holes.repeat_interleave(images.shape[2] // height, 2).repeat_interleave(images.shape[3] // width, 3)
    sheet = image_sheet(torch.where(holes, torch.tensor(_MASK)[:, None, None], images), COLUMNS)
    bar = torch.full((3, _BAR, sheet.shape[2]), 0.1)
    bar[:, :, : round(share * sheet.shape[2])] = torch.tensor(_BAR_COLOUR)[:, None, None]
    return torch.cat((sheet, bar), 1)

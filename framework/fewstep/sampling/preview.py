"""The first samples as lines for a terminal.

Shapes: n samples, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewstep.core.echo import printable
from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.sampling.templates import checked_tokens

_TEXTS, _LONGEST = 3, 280
"""Number of texts, and the characters that are shown of each."""
_WIDTH, _HEIGHT = 96, 32
"""Limits of a row of images, in characters."""


def preview(file: Path, dataset: Dataset) -> Iterator[str]:
    """Lines that show the first samples of a file of tokens: texts, or small images drawn with characters.

    Args:
        file: safetensors file with `tokens` [N, L].

    Raises:
        UserError: the file is damaged, or its tokens are not of these data.
    """
    texts = dataset.to_text(_first_rows(file, dataset, _WIDTH))
    if dataset.kind == "image":
        yield from _side_by_side(texts)
        return
    for text in texts[:_TEXTS]:
        yield printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def picture_size(sheet: Path) -> str:
    """The size of a picture as a phrase after its path; empty for a text."""
    if sheet.suffix != ".png":
        return ""
    from PIL import Image

    with Image.open(sheet) as picture:
        return f" ({picture.width} x {picture.height} pixels)"


def _first_rows(file: Path, dataset: Dataset, count: int) -> Tensor:
    """The first tokens, LongTensor [n, L]; see `preview`."""
    try:
        with safe_open(file, framework="pt") as tensors:
            rows = tensors.get_slice("tokens")[:count]
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{file}' is damaged ({error}); delete its folder and sample again") from None
    return checked_tokens(rows, f"'{file}'", dataset, complete=True)


def _side_by_side(pictures: list[str]) -> Iterator[str]:
    """Lines of as many pictures as fit. Characters are twice as high as wide, so that shades of one pixel are doubled.

    Block elements show several pixels each and stay as they are.
    """
    times = 2 if all(picture.isascii() for picture in pictures) else 1
    blocks = [["".join(c * times for c in line) for line in picture.split("\n")] for picture in pictures]
    count = (_WIDTH + 2) // (len(blocks[0][0]) + 2)
    if count < 1 or len(blocks[0]) > _HEIGHT:
        return
    for lines in zip(*blocks[:count], strict=True):
        yield "  ".join(lines).rstrip()

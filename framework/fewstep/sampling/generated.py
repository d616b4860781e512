"""What a model has drawn, as people look at it: texts, images, a picture of all of them.

Shapes: N samples, L tokens, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.runtime.pixels import as_pixels
from fewstep.sampling.sheets import image_sheet, save_sheet

if TYPE_CHECKING:
    from PIL import Image

_SHOWN_IMAGES, _SHOWN_TEXTS = 100, 20
"""Samples that a notebook shows of one result."""
_LONGEST = 2000
"""Characters of a text that a notebook shows."""


@dataclass(frozen=True, repr=False)
class Generated:
    """Samples: `tokens` (LongTensor [N, L], on the CPU), the classes that were asked for (`labels`, LongTensor [N]) if
    any were, and `nfe`, the network evaluations that each took on average.

    An index or a slice selects samples. A notebook shows them as a picture or as texts.
    """

    tokens: Tensor
    labels: Tensor | None
    nfe: float
    dataset: Dataset

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int | slice | Tensor) -> Generated:
        """Some of the samples; of an integer, that one.

        Raises:
            IndexError: there is no such sample.
        """
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"sample {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        labels = None if self.labels is None else self.labels[index]
        return Generated(self.tokens[index], labels, self.nfe, self.dataset)

    def __iter__(self) -> Iterator[Generated]:
        return (self[number] for number in range(len(self)))

    @property
    def texts(self) -> list[str]:
        """A readable line or block for each sample."""
        return self.dataset.to_text(self.tokens)

    @property
    def images(self) -> Tensor | None:
        """Images in [0, 1], float [N, C, H, W], or drawings of what can be drawn (music); None for all else."""
        return self.dataset.pictures(self.tokens)

    def picture(self, columns: int = 10) -> Image.Image | None:
        """All samples in one picture, `columns` in a row; None for what cannot be drawn."""
        from PIL import Image

        images = self.images
        if images is None:
            return None
        sheet = image_sheet(images.to(torch.float32), min(columns, max(1, len(self))))
        return Image.fromarray(as_pixels(sheet))

    def save(self, path: str | Path) -> Path:
        """Write a sheet of all samples: `path`.png for images, `path`.txt for all else; returns what was written."""
        return save_sheet(Path(path).with_suffix(""), self.dataset, self.tokens)

    @property
    def _caption(self) -> str:
        count = f"{len(self)} sample{'' if len(self) == 1 else 's'}"
        return f"{count}, {self.nfe:g} network evaluation{'' if self.nfe == 1 else 's'} each"

    def __repr__(self) -> str:
        first = self[:1].texts[0] if len(self) and self.dataset.kind != "image" else ""
        preview = f", first {first[:60]!r}" if first else ""
        return f"<Generated: {self._caption}{preview}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a caption, and the first samples as a picture or as texts."""
        picture = self[:_SHOWN_IMAGES].picture() if len(self) else None
        if picture is not None and self.dataset.kind == "image":
            shown, body = min(len(self), _SHOWN_IMAGES), _as_html(picture)
        else:
            shown = min(len(self), _SHOWN_TEXTS)
            body = "".join(_text_as_html(text) for text in self[:shown].texts)
            body = (_as_html(picture) if picture is not None else "") + body
        more = f"; the first {shown} are shown" if shown < len(self) else ""
        return f'<figure style="margin:0"><figcaption>{self._caption}{more}</figcaption>{body}</figure>'


def _as_html(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    code = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="samples" style="max-width:100%;image-rendering:pixelated" src="data:image/png;base64,{code}">'


def _text_as_html(text: str) -> str:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    return (
        '<pre style="white-space:pre-wrap;margin:.4em 0;padding:.3em .6em;border-left:3px solid #8888">'
        f"{html.escape(cut)}</pre>"
    )

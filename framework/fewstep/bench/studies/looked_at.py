"""What is known of data before a study of them is sized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OwnData:
    """Data that a study is to be made of.

    Args:
        kind: what their samples are.
        label: what was seen, for people.
        section: the recipe's `data` without what depends on the size that is chosen.
        samples: number of samples, about.
        length: tokens of a sample, where the data say it; None where it is chosen.
        remarks: sentences on what to know of the data.
        classes: number of classes of pictures.
        side: pixels of the shorter side of a typical picture; 0 for text.
    """

    kind: Literal["text", "pictures"]
    label: str
    section: dict[str, object]
    samples: int
    length: int | None = None
    remarks: tuple[str, ...] = ()
    classes: int = 1
    side: int = 0

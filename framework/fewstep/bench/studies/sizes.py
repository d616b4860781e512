"""Sizes of samples and networks, from small to large; a study takes the largest that its time trains well."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep.bench.studies.looked_at import OwnData

BATCH = 64
"""Samples of a training step."""


@dataclass(frozen=True)
class Size:
    """A sample and a network.

    Args:
        tokens: of a sample; of pictures, pixels a side.
        rate: learning rate of a teacher of this width.
    """

    tokens: int
    width: int
    depth: int
    rate: float

    def cost(self, pictures: bool) -> float:
        """Products of a training step, up to a factor."""
        length = self.tokens**2 if pictures else self.tokens
        return self.depth * length * self.width * (12 * self.width + 2 * length)


_TEXT = (
    Size(64, 96, 3, 3e-3),
    Size(64, 128, 4, 2e-3),
    Size(128, 128, 4, 2e-3),
    Size(128, 192, 6, 1e-3),
    Size(128, 256, 8, 1e-3),
)
_PICTURES = (
    Size(8, 64, 3, 4e-3),
    Size(12, 64, 3, 4e-3),
    Size(14, 64, 3, 4e-3),
    Size(16, 96, 4, 2e-3),
    Size(20, 96, 4, 2e-3),
    Size(24, 128, 6, 1e-3),
    Size(32, 192, 6, 1e-3),
)


def sizes_of(data: OwnData, side: int | None = None) -> list[Size]:
    """Sizes for data, the cheapest first.

    Args:
        side: pixels a side of pictures that were asked for; None for a choice up to the pictures' own.
    """
    if data.kind == "text":
        sizes = [Size(data.length or size.tokens, size.width, size.depth, size.rate) for size in _TEXT]
        return list(dict.fromkeys(sizes))
    if side is not None:
        return [Size(side, size.width, size.depth, size.rate) for size in _PICTURES if size.tokens in (8, 16, 24, 32)]
    fitting = [size for size in _PICTURES if size.tokens <= data.side]
    return fitting or [Size(max(4, data.side), 64, 3, 4e-3)]

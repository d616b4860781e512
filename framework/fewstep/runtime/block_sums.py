"""Sums of the blocks of a large file: each block is compared when it is first read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.core.errors import OperationError

BLOCK = 1 << 20
"""Bytes of a block."""


def block_sums(file: Path) -> list[int]:
    """CRC-32 of each block of a file."""
    with file.open("rb") as opened:
        return [zlib.crc32(block) for block in iter(lambda: opened.read(BLOCK), b"")]


class BlockSums:
    """Blocks of a file with the sums that they should have. A block is read once more when it is first asked for.

    Args:
        file: path of the file.
        sums: CRC-32 of each block.
        remedy: what the reader can do if a block is damaged, the end of the sentence.
    """

    def __init__(self, file: Path, sums: Sequence[int], remedy: str) -> None:
        self.file, self.sums, self.remedy = file, sums, remedy
        self._checked = np.zeros(len(sums), dtype=bool)

    def check(self, places: NDArray[np.int64]) -> None:
        """Compare the blocks of the bytes at `places` that were not compared before.

        Raises:
            OperationError: one is damaged.
        """
        blocks = places // BLOCK
        new = ~self._checked[blocks]
        if not new.any():
            return
        with self.file.open("rb") as opened:
            for block in np.unique(blocks[new]):
                opened.seek(int(block) * BLOCK)
                if zlib.crc32(opened.read(BLOCK)) != self.sums[block]:
                    raise OperationError(
                        f"'{self.file}' is damaged (bytes {int(block) * BLOCK:,} and on differ from what was written); "
                        f"{self.remedy}"
                    )
                self._checked[block] = True

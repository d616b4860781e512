"""Rows of tokens cut out of memory-mapped shards; only the requested rows are read.

Shapes: N rows, L tokens per row, B requested rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.core.errors import OperationError
from fewstep.data.text.preparation.shards import Shard

_MAX_TOKENS = 1 << 28
"""Limit on the tokens of one request: 2 GB."""


class MappedRows(ABC):
    """Acts like a LongTensor [N, L]: it has a shape and a length, and returns rows by slice or by LongTensor [B].

    Args:
        shards: shards of one part, in order.
        length: L, tokens per row.
    """

    def __init__(self, shards: Sequence[Shard], length: int) -> None:
        self._shards = list(shards)
        self._first = np.cumsum([0, *(len(shard.tokens) for shard in shards)])
        self.length = length

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens [B, L] of existing rows [B]."""

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.length))

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """LongTensor [B, L].

        Raises:
            IndexError: a row does not exist.
            OperationError: the rows do not fit in memory.
        """
        if isinstance(index, slice):
            rows = np.arange(*index.indices(len(self)))
        else:
            rows = index.cpu().numpy()
            rows = np.where(rows < 0, rows + len(self), rows)
            if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
                raise IndexError(f"there are {len(self)} rows")
        if len(rows) * self.length > _MAX_TOKENS:
            raise OperationError(
                f"{len(rows):,} samples of {self.length} tokens were asked for at once, which is too much for memory; "
                "leave out metrics that search all training data"
            )
        return torch.from_numpy(self._rows(rows))

    def _at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens at `places` of the concatenated shards, in the shape of `places`."""
        tokens = np.empty(places.shape, dtype=np.int64)
        shard_of = np.searchsorted(self._first, places, side="right") - 1
        for shard in np.unique(shard_of):
            here = shard_of == shard
            # One call for all of them: numpy lets other threads run while it waits for the disk.
            tokens[here] = self._shards[shard].take(places[here] - self._first[shard])
        return tokens


class Windows(MappedRows):
    """Row w is tokens [w L, (w + 1) L) of the concatenated documents; an incomplete last row is left out."""

    def __len__(self) -> int:
        return int(self._first[-1]) // self.length

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._at(rows[:, None] * self.length + np.arange(self.length))


class PaddedDocuments(MappedRows):
    """Row d is the first L tokens of document d, filled up with `fill`."""

    def __init__(self, shards: Sequence[Shard], length: int, fill: int) -> None:
        super().__init__(shards, length)
        self._ends = [shard.ends for shard in shards]
        self._first_row = np.cumsum([0, *(len(ends) for ends in self._ends)])
        self.fill = fill

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        begin, end = np.empty_like(rows), np.empty_like(rows)
        shard_of = np.searchsorted(self._first_row, rows, side="right") - 1
        for shard in np.unique(shard_of):
            here, ends = shard_of == shard, self._ends[shard]
            number = rows[here] - self._first_row[shard]
            end[here] = self._first[shard] + ends.take(number)
            begin[here] = self._first[shard] + np.where(number == 0, 0, ends.take(np.maximum(number - 1, 0)))
        places = begin[:, None] + np.arange(self.length)
        inside = places < end[:, None]
        return np.where(inside, self._at(np.minimum(places, end[:, None] - 1)), self.fill)

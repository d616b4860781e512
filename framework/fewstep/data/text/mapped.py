"""Rows of tokens cut out of memory-mapped shards: what is asked for is read, and nothing else.

Shapes: N rows, L tokens a row, B rows asked for.
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

_MOST = 1 << 28
"""Tokens that are given at once at most: 2 GB of them."""


class MappedRows(ABC):
    """Looks like a LongTensor [N, L]: has its shape and length, and gives rows by slice or by LongTensor [B].

    Args:
        shards: of one part, in order.
        length: L.
    """

    def __init__(self, shards: Sequence[Shard], length: int) -> None:
        self._tokens = [shard.tokens for shard in shards]
        self._first = np.cumsum([0, *(len(tokens) for tokens in self._tokens)])
        self.length = length

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens [B, L] of rows [B], which exist."""

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), self.length))

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """LongTensor [B, L].

        Raises:
            IndexError: there is no such row.
            OperationError: they do not fit in memory.
        """
        if isinstance(index, slice):
            rows = np.arange(*index.indices(len(self)))
        else:
            rows = index.cpu().numpy()
            rows = np.where(rows < 0, rows + len(self), rows)
            if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
                raise IndexError(f"there are {len(self)} rows")
        if len(rows) * self.length > _MOST:
            raise OperationError(
                f"{len(rows):,} samples of {self.length} tokens were asked for at once, which is too much for memory; "
                "leave out metrics that search all training data"
            )
        return torch.from_numpy(self._rows(rows))

    def _at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens at places of all shards' tokens one after the other, in the shape of `places`."""
        found = np.empty(places.shape, dtype=np.int64)
        shard_of = np.searchsorted(self._first, places, side="right") - 1
        for shard in np.unique(shard_of):
            here = shard_of == shard
            # One call for all of them: numpy lets other threads go on while the disk is waited for.
            found[here] = self._tokens[shard].take(places[here] - self._first[shard])
        return found


class Windows(MappedRows):
    """Row w is tokens [w L, (w + 1) L) of all documents one after the other; an incomplete last one is left out."""

    def __len__(self) -> int:
        return int(self._first[-1]) // self.length

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._at(rows[:, None] * self.length + np.arange(self.length))


class PaddedDocuments(MappedRows):
    """Row d is the first L tokens of document d, and after its last one `fill`."""

    def __init__(self, shards: Sequence[Shard], length: int, fill: int) -> None:
        super().__init__(shards, length)
        self._ends = [shard.ends for shard in shards]
        self._first_document = np.cumsum([0, *(len(ends) for ends in self._ends)])
        self.fill = fill

    def __len__(self) -> int:
        return int(self._first_document[-1])

    def _rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        begin, end = np.empty_like(rows), np.empty_like(rows)
        shard_of = np.searchsorted(self._first_document, rows, side="right") - 1
        for shard in np.unique(shard_of):
            here, ends = shard_of == shard, self._ends[shard]
            number = rows[here] - self._first_document[shard]
            end[here] = self._first[shard] + ends.take(number)
            begin[here] = self._first[shard] + np.where(number == 0, 0, ends.take(np.maximum(number - 1, 0)))
        places = begin[:, None] + np.arange(self.length)
        inside = places < end[:, None]
        return np.where(inside, self._at(np.minimum(places, end[:, None] - 1)), self.fill)

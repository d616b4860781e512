"""Batches of training samples, read ahead of the training where they come from disk.

Shapes: B samples of a batch, L tokens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

from fewstep.training.order import EpochOrder, share_of

_AHEAD = 4
"""Batches that are read ahead by each thread."""


class Rows(NamedTuple):
    """Samples of one batch: their numbers (LongTensor [B]) and what was read for them ([B, L])."""

    numbers: Tensor
    tokens: Tensor


class Loader:
    """Batches one after the other; which ones depends on the position, the rank and the number of ranks alone.

    The position counts samples of all ranks that were given out, not those that were read ahead, so a resumed run
    takes the very batch that would have come.

    Args:
        order: of all samples.
        fetch: reads samples by number (LongTensor [B] to [B, L]); called from other threads if there are readers.
        batch_size: of all ranks together.
        readers: threads that read ahead; 0 reads when asked, for what is in memory.
        rank: which share of each batch this process takes.
        world: processes that share.
    """

    def __init__(
        self,
        order: EpochOrder,
        fetch: Callable[[Tensor], Tensor],
        batch_size: int,
        *,
        readers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.order, self.fetch, self.batch_size = order, fetch, batch_size
        self.rank, self.world = rank, world
        self.stalled = 0.0
        """Seconds that were waited for batches."""
        self._position = 0
        self._threads = ThreadPoolExecutor(readers, "loader") if readers else None
        self._ahead = _AHEAD * readers
        self._coming: deque[tuple[Tensor, Future[Tensor]]] = deque()

    @property
    def position(self) -> int:
        """Samples of all ranks that were given out; setting it goes there."""
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        self._forget()
        self._position = position

    def next(self) -> Rows:
        """The next batch of this rank.

        Raises:
            what `fetch` raised for it.
        """
        if self._threads is None:
            numbers = self._numbers(self._position)
            rows = Rows(numbers, self.fetch(numbers))
        else:
            self._top_up(self._threads)
            numbers, coming = self._coming.popleft()
            begun = time.monotonic()
            rows = Rows(numbers, coming.result())
            self.stalled += time.monotonic() - begun
        self._position += self.batch_size
        return rows

    def _numbers(self, position: int) -> Tensor:
        return share_of(self.order.at(position, self.batch_size), self.rank, self.world)

    def _top_up(self, threads: ThreadPoolExecutor) -> None:
        while len(self._coming) < self._ahead:
            numbers = self._numbers(self._position + len(self._coming) * self.batch_size)
            self._coming.append((numbers, threads.submit(self.fetch, numbers)))

    def _forget(self) -> None:
        for _, coming in self._coming:
            coming.cancel()
        self._coming.clear()

    def close(self) -> None:
        """Let the threads go."""
        self._forget()
        if self._threads:
            self._threads.shutdown(wait=False)

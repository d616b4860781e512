"""Batches of training samples; those on disk are read ahead of the training.

Shapes: B samples of a batch, L tokens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

from fewstep.training.order import EpochOrder, share_begin, share_of

_AHEAD = 4
"""Number of batches that each thread reads ahead."""


class Rows(NamedTuple):
    """Samples of one batch: their numbers (LongTensor [B]) and tokens [B, L]."""

    numbers: Tensor
    tokens: Tensor


class Loader:
    """Endless batches; a batch depends only on the position, the rank and the number of ranks.

    The position counts the samples of all ranks that `next` has returned, and not those read ahead, so that a resumed
    run continues with the same batch.

    Args:
        order: of all samples.
        fetch: reads samples by number (LongTensor [B] to [B, L]); called from other threads if there are readers.
        batch_size: of all ranks together.
        readers: number of threads that read ahead; 0 reads in `next`, for data in memory.
        rank: number of this process, which selects its share of each batch.
        world: number of processes.
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
        """Seconds of waiting for batches."""
        self._position = 0
        self._threads = ThreadPoolExecutor(readers, "loader") if readers else None
        self._ahead = _AHEAD * readers
        self._pending: deque[tuple[Tensor, Future[Tensor]]] = deque()

    @property
    def position(self) -> int:
        """Number of samples of all ranks that `next` has returned; set it to continue elsewhere."""
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        self._cancel()
        self._position = position

    @property
    def place(self) -> int:
        """Place of this rank's first sample in the batch of all ranks."""
        return share_begin(self.batch_size, self.rank, self.world)

    def next(self) -> Rows:
        """The next batch of this rank.

        Raises:
            Exception: any error of `fetch` for this batch.
        """
        if self._threads is None:
            numbers = self._numbers(self._position)
            rows = Rows(numbers, self.fetch(numbers))
        else:
            self._top_up(self._threads)
            numbers, future = self._pending.popleft()
            start = time.monotonic()
            rows = Rows(numbers, future.result())
            self.stalled += time.monotonic() - start
        self._position += self.batch_size
        return rows

    def _numbers(self, position: int) -> Tensor:
        return share_of(self.order.at(position, self.batch_size), self.rank, self.world)

    def _top_up(self, threads: ThreadPoolExecutor) -> None:
        while len(self._pending) < self._ahead:
            numbers = self._numbers(self._position + len(self._pending) * self.batch_size)
            self._pending.append((numbers, threads.submit(self.fetch, numbers)))

    def _cancel(self) -> None:
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()

    def close(self) -> None:
        """Cancel what is pending and end the threads."""
        self._cancel()
        if self._threads:
            self._threads.shutdown(wait=False)

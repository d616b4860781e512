"""One task on many items, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class InOrder(Protocol):
    """Runs a task on each item and returns each item with its result, in the order of the items.

    Task, items and results may be pickled. Items are taken one after the other, so that memory stays flat.
    """

    def __call__(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each item with its result."""

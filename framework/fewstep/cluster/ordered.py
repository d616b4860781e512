"""One task on many items, on a cluster, with the results in the order of the items."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from distributed import Future

from fewstep.cluster.cluster import Cluster, Say, open_cluster
from fewstep.cluster.settings import load_cluster
from fewstep.cluster.worker import Report
from fewstep.core.plugins import load_required
from fewstep.runtime.in_order import InOrder

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Items for each worker that are on their way."""


@contextmanager
def in_order_on(source: str, folder: Path, plugins: Sequence[str], say: Say) -> Iterator[InOrder]:
    """What runs a task on each item with the workers of a cluster, which is opened once there is a task.

    Args:
        source: cluster file or address.
        folder: folder of the results.
        plugins: plugins that a worker loads before it reads the task.
    """
    settings = load_cluster(source)

    def in_order(task: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        with open_cluster(settings, folder, say) as cluster:
            try:
                yield from _in_order(cluster, tuple(plugins), task, items)
            except BaseException:
                cluster.stop()
                raise

    yield in_order


def _in_order(
    cluster: Cluster, plugins: tuple[str, ...], task: Callable[[T], R], items: Iterable[T]
) -> Iterator[tuple[T, R]]:
    """Each item with its result. A limited number of items is on its way, so that memory stays flat."""
    # The task travels once to each worker, as the result of a task that all others need.
    shared = cluster.submit(("task",), _unchanged, pickle.dumps(task), computes=False)
    on_its_way: deque[tuple[T, Future]] = deque()

    def first() -> tuple[T, R]:
        item, future = on_its_way.popleft()
        result = cluster.wait(future).unwrap()
        cluster.release(future)
        return item, cast("R", result)

    for number, item in enumerate(items):
        if len(on_its_way) >= _AHEAD * cluster.workers:
            yield first()
        about = ("part", str(number))
        future = cluster.submit(about, _apply, plugins, item, needs=[shared], priority=-number, computes=False)
        on_its_way.append((item, future))
    while on_its_way:
        yield first()


def _unchanged(report: Report, task: bytes) -> bytes:
    return task


def _apply(report: Report, plugins: tuple[str, ...], item: object, task: object) -> object:
    """The result of the task on one item, on a worker."""
    assert isinstance(task, bytes)
    return _loaded(plugins, task)(item)


@lru_cache(maxsize=1)
def _loaded(plugins: tuple[str, ...], task: bytes) -> Callable[[object], object]:
    """The task, read after the plugins that it may be of are loaded.

    Raises:
        PluginError: a plugin is missing here, or not trusted.
    """
    for name in plugins:
        load_required(name)
    function: Callable[[object], object] = pickle.loads(task)
    return function

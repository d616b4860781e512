"""Processes that share the items of one task and return the results in order."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from fewstep.core.errors import OperationError, UserError

T = TypeVar("T")
R = TypeVar("R")


def in_order(task: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[tuple[T, R]]:
    """Each item with its result of `task`, in the order of the items, for any number of processes.

    With one process the task runs in this one. Several processes take turns, each with one item at a time, so that
    memory stays flat. They end when this process ends, even if it is killed.

    Raises:
        UserError: `task` raised it.
        OperationError: a process died, or failed otherwise.
    """
    if processes == 1:
        for item in items:
            yield item, task(item)
        return
    pool = [_TaskProcess(task)]
    try:
        while len(pool) < processes:
            pool.append(_TaskProcess(task, pool))
        queue: deque[tuple[_TaskProcess[T, R], T]] = deque()
        for number, item in enumerate(items):
            process = pool[number % processes]
            if len(queue) == processes:
                yield queue[0][1], queue.popleft()[0].result()
            process.send(item)
            queue.append((process, item))
        while queue:
            yield queue[0][1], queue.popleft()[0].result()
    finally:
        for process in pool:
            process.stop()


class _TaskProcess(Generic[T, R]):
    """A process at the far end of a pipe; it ends once the near end is closed everywhere."""

    def __init__(self, task: Callable[[T], R], siblings: list[_TaskProcess[T, R]] | None = None) -> None:
        # A forked process has plugins and tokenizer at once; outside Linux forking is not safe.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._pipe, far_end = context.Pipe()
        inherited = [self._pipe, *(sibling._pipe for sibling in siblings or [])] if sys.platform == "linux" else []
        self._process = context.Process(target=_serve, args=(far_end, task, inherited), daemon=True)
        self._process.start()
        far_end.close()

    def send(self, item: T) -> None:
        try:
            self._pipe.send(item)
        except OSError:
            raise self._dead() from None

    def result(self) -> R:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        if kind == "user error":
            raise UserError(value)
        if kind == "failure":
            raise OperationError(f"a process failed: {value}")
        result: R = value
        return result

    def _dead(self) -> OperationError:
        self._process.join(5)
        return OperationError(
            f"a process died (exit code {self._process.exitcode}), perhaps for lack of memory; "
            "run the same command again with fewer --workers; it continues where it stopped"
        )

    def stop(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, task: Callable[[T], R], inherited: list[Connection]) -> None:
    """Run the task on items from the pipe until it closes.

    A forked process inherits the near ends of its siblings' pipes and of its own. It closes them, since an open copy
    would keep those processes alive after the parent has died.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for connection in inherited:
        connection.close()
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            reply: tuple[str, R | str] = ("result", task(item))
        except UserError as error:
            reply = ("user error", str(error))
        except Exception:
            reply = ("failure", traceback.format_exc().strip().splitlines()[-1])
        try:
            pipe.send(reply)
        except OSError:
            return

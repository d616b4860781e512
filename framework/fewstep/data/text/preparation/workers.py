"""Processes that share work and give it back in order."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from fewstep.core.errors import OperationError, UserError

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """Each item with what `work` makes of it, in the order of the items, whatever the number of processes.

    One worker is this process itself. Others take turns, each with one item at a time, so that memory stays flat; they
    end when this process does, however it does.

    Raises:
        UserError: as `work` raises it.
        OperationError: a worker died, or failed otherwise.
    """
    if workers == 1:
        for item in items:
            yield item, work(item)
        return
    pool = [_Worker(work)]
    try:
        while len(pool) < workers:
            pool.append(_Worker(work, pool))
        waiting: deque[tuple[_Worker, T]] = deque()
        for number, item in enumerate(items):
            worker = pool[number % workers]
            if len(waiting) == workers:
                yield waiting[0][1], waiting.popleft()[0].result()
            worker.give(item)
            waiting.append((worker, item))
        while waiting:
            yield waiting[0][1], waiting.popleft()[0].result()
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process at the other end of a pipe; it ends once nobody holds this end any more."""

    def __init__(self, work: Callable[[Any], Any], others: list[_Worker] | None = None) -> None:
        # Forked, a worker has plugins and tokenizer at once; elsewhere than on Linux that is not safe.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._pipe, far = context.Pipe()
        inherited = [self._pipe, *(worker._pipe for worker in others or [])] if sys.platform == "linux" else []
        self._process = context.Process(target=_serve, args=(far, work, inherited), daemon=True)
        self._process.start()
        far.close()

    def give(self, item: Any) -> None:
        try:
            self._pipe.send(item)
        except OSError:
            raise self._dead() from None

    def result(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        if kind == "user error":
            raise UserError(value)
        if kind == "failure":
            raise OperationError(f"a worker failed: {value}")
        return value

    def _dead(self) -> OperationError:
        self._process.join(5)
        return OperationError(
            f"a worker died (exit code {self._process.exitcode}), perhaps for lack of memory; "
            "run the same command again, it goes on where it was, with fewer --workers"
        )

    def stop(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, work: Callable[[Any], Any], inherited: list[Connection]) -> None:
    """What a worker does until its pipe ends. The ends of others that it inherited would keep them alive."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("result", work(item))
        except UserError as error:
            answer = ("user error", str(error))
        except Exception:
            answer = ("failure", traceback.format_exc().strip().splitlines()[-1])
        try:
            pipe.send(answer)
        except OSError:
            return

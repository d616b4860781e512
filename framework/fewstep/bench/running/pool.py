"""Work in several processes: each trains or measures one model at a time and reports to the session, which writes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from fewstep.bench.running.rows import Slot
from fewstep.bench.running.session import Session
from fewstep.bench.running.work import Task
from fewstep.bench.running.worker import Order, work

_PATIENCE = 60.0
"""Seconds that processes are given to save what they train before they are killed."""


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Task | None = None


class Pool:
    """Up to `jobs` processes; as a context, it leaves none behind."""

    def __init__(self, jobs: int, order: Order) -> None:
        self.jobs, self.order = jobs, order
        self.workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()

    @property
    def busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.task]

    def submit(self, task: Task, slots: list[Slot]) -> None:
        """Give a task to a process that has none; there must be room for it."""
        worker = next((worker for worker in self.workers if worker.task is None), None)
        if worker is None:
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, self.order))
            with _environment():
                process.start()
            theirs.close()
            worker = _Worker(process, ours)
            self.workers.append(worker)
        worker.task = task
        worker.connection.send((task, slots))

    def messages(self, timeout: float | None = None) -> Iterator[tuple[Task, str, tuple[Any, ...]]]:
        """What processes with a task say next, as (task, method of the session, arguments after the task).

        "end" is the last message of a task; a process that died is spoken for.
        """
        spoken = {worker.connection: worker for worker in self.busy}
        for connection in wait(list(spoken), timeout) if spoken else ():  # nobody would ever speak
            worker = spoken[connection]  # type: ignore[index]
            assert worker.task
            task = worker.task
            try:
                method, arguments = worker.connection.recv()
            except (EOFError, ConnectionError):
                worker.process.join()
                self.workers.remove(worker)
                method, arguments = "end", (_death(worker.process.exitcode),)
            if method == "end":
                worker.task = None
            yield task, method, arguments

    def stop(self) -> Iterator[tuple[Task, str, tuple[Any, ...]]]:
        """Ask all processes to save what they train and to end; their last messages."""
        for worker in self.workers:
            worker.process.terminate()
        until = time.monotonic() + _PATIENCE
        while self.busy and time.monotonic() < until:
            yield from self.messages(timeout=1.0)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        reason = "; was there too little memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{reason}"
    return f"its process ended with exit code {code}"


@contextmanager
def _environment() -> Iterator[None]:
    """How processes start: without Ctrl-C, which the first process passes on, and with threads that wait asleep."""
    known = {name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
        for name, value in known.items():
            if value is None:
                del os.environ[name]


def run_parallel(session: Session, jobs: int, order: Order) -> bool:
    """Do all that is left of a suite in up to `jobs` processes.

    What has the longest way to the end of the suite goes first. A task that fails stops none but those that need it.

    Raises:
        OperationError: a model that metrics ask could not be trained, so nothing can be measured.
        KeyboardInterrupt: stopped; trainings were asked to save, and rows that were complete are kept.
    """
    waiting = session.tasks
    with Pool(jobs, order) as pool:
        try:
            while waiting or pool.busy:
                _hand_out(session, pool, waiting)
                for message in pool.messages():
                    _pass_on(session, *message)
        except KeyboardInterrupt:
            for message in pool.stop():
                _pass_on(session, *message, stopping=True)
            raise
    return session.complete()


def _hand_out(session: Session, pool: Pool, waiting: list[Task]) -> None:
    """Begin tasks while there is room and one whose needs have ended."""
    while len(pool.busy) < pool.jobs:
        open_ = {*waiting, *(worker.task for worker in pool.busy)}
        ready = [task for task in waiting if not open_.intersection(session.needs(task))]
        if not ready:
            return
        task = max(ready, key=session.way)
        waiting.remove(task)
        slots = session.begin(task)
        if slots is not None:
            pool.submit(task, slots)


def _pass_on(session: Session, task: Task, method: str, arguments: tuple[Any, ...], *, stopping: bool = False) -> None:
    """Give a message to the session; while all is being stopped, the death of a process is no failure."""
    if method == "end" and stopping:
        arguments = (None,)
    getattr(session, method)(task, *arguments)

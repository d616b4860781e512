"""Tasks in several processes. Each trains or measures one model at a time and reports to the session, which writes."""

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

from fewstep.bench.running.process import ProcessSettings, run_tasks
from fewstep.bench.running.rows import Slot
from fewstep.bench.running.session import Session
from fewstep.bench.running.tasks import Task
from fewstep.runtime.threads import bound_waiting

_STOP_TIMEOUT = 60.0
"""Seconds in which stopped processes must save their models, before they are killed."""

Message = tuple[Task, str, tuple[Any, ...]]
"""Task, method of the session, and the method's arguments after the task."""


@dataclass
class _Member:
    """A process of the pool, its pipe, and its current task."""

    process: SpawnProcess
    connection: Connection
    task: Task | None = None


class Pool:
    """Up to `jobs` processes. As a context manager, it ends them all on exit."""

    def __init__(self, jobs: int, settings: ProcessSettings) -> None:
        self.jobs, self.settings = jobs, settings
        self.members: list[_Member] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.process.kill()
            member.process.join()

    @property
    def busy(self) -> list[_Member]:
        return [member for member in self.members if member.task]

    def submit(self, task: Task, slots: list[Slot]) -> None:
        """Send a task to an idle process, or to a new one. Fewer than `jobs` processes may be busy."""
        member = next((member for member in self.members if member.task is None), None)
        if member is None:
            pipe, child_pipe = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=run_tasks, args=(child_pipe, self.settings))
            with _environment():
                process.start()
            child_pipe.close()
            member = _Member(process, pipe)
            self.members.append(member)
        member.task = task
        member.connection.send((task, slots))

    def messages(self, timeout: float | None = None) -> Iterator[Message]:
        """Next messages of busy processes; waits up to `timeout` seconds for the first.

        The last message of a task is "end". If a process died, the pool sends "end" in its place.
        """
        open_pipes = {member.connection: member for member in self.busy}
        for connection in wait(list(open_pipes), timeout) if open_pipes else ():  # `wait` on no pipe never returns
            member = open_pipes[connection]  # type: ignore[index]
            assert member.task
            task = member.task
            try:
                method, arguments = member.connection.recv()
            except (EOFError, ConnectionError):
                member.process.join()
                self.members.remove(member)
                method, arguments = "end", (_exit_reason(member.process.exitcode),)
            if method == "end":
                member.task = None
            yield task, method, arguments

    def stop(self) -> Iterator[Message]:
        """Ask all processes to save their models and to end. Yields their last messages."""
        for member in self.members:
            member.process.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT
        while self.busy and time.monotonic() < deadline:
            yield from self.messages(timeout=1.0)


def _exit_reason(code: int | None) -> str:
    """Why a process ended, by its exit code (negative: a signal)."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        reason = "; was there too little memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{reason}"
    return f"its process ended with exit code {code}"


@contextmanager
def _environment() -> Iterator[None]:
    """Environment in which processes start: Ctrl-C ignored, since the session passes it on, and waiting bounded.

    A child inherits both at its start; setting them in the child would come after torch has read the variables.
    """
    previous = dict(os.environ)
    bound_waiting()
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        for name in os.environ.keys() - previous.keys():
            del os.environ[name]


def run_parallel(session: Session, jobs: int, settings: ProcessSettings) -> bool:
    """Run the remaining tasks of a suite in up to `jobs` processes.

    The task with the longest critical path starts first. A failed task stops only the tasks that need it.

    Raises:
        OperationError: a model that metrics refer to could not be trained, so nothing can be measured.
        KeyboardInterrupt: stopped; trainings were asked to save, and complete rows are stored.
    """
    waiting = session.tasks
    with Pool(jobs, settings) as pool:
        try:
            while waiting or pool.busy:
                _submit_ready(session, pool, waiting)
                for message in pool.messages():
                    _deliver(session, *message)
        except KeyboardInterrupt:
            for message in pool.stop():
                _deliver(session, *message, stopping=True)
            raise
    return session.complete()


def _submit_ready(session: Session, pool: Pool, waiting: list[Task]) -> None:
    """Start tasks whose needs have ended, while a process is free."""
    while len(pool.busy) < pool.jobs:
        unfinished = {*waiting, *(member.task for member in pool.busy)}
        ready = [task for task in waiting if not unfinished.intersection(session.needs(task))]
        if not ready:
            return
        task = max(ready, key=session.critical_path)
        waiting.remove(task)
        slots = session.begin(task)
        if slots is not None:
            pool.submit(task, slots)


def _deliver(
    session: Session, task: Task, method: str, arguments: tuple[object, ...], *, stopping: bool = False
) -> None:
    """Call the session's method that a message names. While stopping, the end of a process is no failure."""
    if method == "end" and stopping:
        arguments = (None,)
    getattr(session, method)(task, *arguments)

"""A process of the pool: it runs the tasks that arrive over its pipe, and reports over the same pipe."""

from __future__ import annotations

import os
import threading
import traceback
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from fewstep.bench.results.results import Row
from fewstep.bench.running.plan import Plan, make_plan
from fewstep.bench.running.tasks import Task, TaskRunner, error_message
from fewstep.bench.suites.loading import load_suite
from fewstep.core.errors import OperationError
from fewstep.core.plugins import trusting_plugins


@dataclass(frozen=True)
class ProcessSettings:
    """All that a process needs to make the session's plan again.

    Args:
        digest: of that plan.
        commit: of fewstep, for the rows.
        threads: number of threads of the process.
        trust_plugins: whether code that models list is trusted; a process does not inherit the context of its parent.
    """

    source: str
    quick: bool
    sets: tuple[str, ...]
    folder: Path
    code: str | None
    digest: str
    commit: str | None
    threads: int
    trust_plugins: bool = False


class _PipeReporter:
    """`tasks.Reporter` that sends each call through a pipe, as the method's name and its arguments."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def line(self, task: Task, text: str, timed: bool) -> None:
        self._connection.send(("line", (text, timed)))

    def progressed(self, task: Task, passes: float) -> None:
        self._connection.send(("progressed", (passes,)))

    def opened(self, task: Task, parameters: int | None) -> None:
        self._connection.send(("opened", (parameters,)))

    def measured(self, task: Task, row: Row) -> None:
        self._connection.send(("measured", (row,)))


def run_tasks(connection: Connection, settings: ProcessSettings) -> None:
    """Run tasks until the pipe closes. Exits at once when the parent process ends."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with trusting_plugins(settings.trust_plugins):
        _run_tasks(connection, settings)


def _run_tasks(connection: Connection, settings: ProcessSettings) -> None:
    runner = None
    while True:
        try:
            task, slots = connection.recv()
        except EOFError:
            return
        reason = None
        try:
            runner = runner or _task_runner(connection, settings)
            finished = runner.run(task, slots)
        except Exception as error:
            finished, reason = True, error_message(error)
            if os.environ.get("FEWSTEP_DEBUG") == "1":
                traceback.print_exc()
        connection.send(("end", (reason if finished else "its process was asked to stop",)))
        if not finished:
            return


def _task_runner(connection: Connection, settings: ProcessSettings) -> TaskRunner:
    torch.set_num_threads(settings.threads)
    return TaskRunner(make_same_plan(settings), _PipeReporter(connection), settings.commit)


def make_same_plan(settings: ProcessSettings) -> Plan:
    """Make the session's plan again, which takes long.

    Raises:
        OperationError: it is another one now.
    """
    suite = load_suite(settings.source, quick=settings.quick, sets=settings.sets)
    plan = make_plan(suite, settings.folder, settings.code)
    if plan.digest != settings.digest:
        raise OperationError("the suite, a recipe or the data changed while it ran; run the command again")
    return plan


def _exit_with_parent() -> None:
    """Exit when the session dies: this process would train on in a folder that the next call uses."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

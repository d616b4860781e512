"""The process of one worker: it does the tasks that it is sent and reports over the same pipe."""

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
from fewstep.bench.running.plan import make_plan
from fewstep.bench.running.work import Task, Workbench, told
from fewstep.bench.suites.suite import load_suite
from fewstep.core.errors import OperationError


@dataclass(frozen=True)
class Order:
    """What a worker must know to make the session's plan once more.

    Args:
        digest: of that plan.
        commit: of fewstep, for the rows.
        threads: that it may use.
    """

    source: str
    quick: bool
    sets: tuple[str, ...]
    folder: Path
    code: str | None
    digest: str
    commit: str | None
    threads: int


class _Pipe:
    """`work.Reports` to the other end of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def line(self, task: Task, text: str, timed: bool) -> None:
        self._connection.send(("line", (text, timed)))

    def worked(self, task: Task, work: float) -> None:
        self._connection.send(("worked", (work,)))

    def opened(self, task: Task, parameters: int | None) -> None:
        self._connection.send(("opened", (parameters,)))

    def measured(self, task: Task, row: Row) -> None:
        self._connection.send(("measured", (row,)))


def work(connection: Connection, order: Order) -> None:
    """Do tasks until the pipe closes. Ends at once with the process that started it."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    bench = None
    while True:
        try:
            task, slots = connection.recv()
        except EOFError:
            return
        reason = None
        try:
            bench = bench or _bench(connection, order)
            finished = bench.do(task, slots)
        except Exception as error:
            finished, reason = True, told(error)
            if os.environ.get("FEWSTEP_DEBUG") == "1":
                traceback.print_exc()
        connection.send(("end", (reason if finished else "its process was asked to stop",)))
        if not finished:
            return


def _bench(connection: Connection, order: Order) -> Workbench:
    """Load what takes long, and check that the suite is still that of the session."""
    torch.set_num_threads(order.threads)
    plan = make_plan(load_suite(order.source, quick=order.quick, sets=order.sets), order.folder, order.code)
    if plan.digest != order.digest:
        raise OperationError("the suite, a recipe or the data changed while it ran; run the command again")
    return Workbench(plan, _Pipe(connection), order.commit)


def _die_with_parent() -> None:
    """A worker whose session was killed would train on in a folder that the next call uses."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

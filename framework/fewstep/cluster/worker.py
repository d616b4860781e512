"""What a worker of a cluster runs: one task of fewstep at a time, with the caller's folder, trust and threads."""

from __future__ import annotations

import atexit
import hashlib
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distributed import Reschedule, Worker, WorkerPlugin, get_worker

from fewstep.core import plugins
from fewstep.core.errors import FewstepError, OperationError, UserError
from fewstep.core.plugins import trusting_plugins
from fewstep.runtime.signals import Ending

_running: dict[str, Ending] = {}
"""Tasks of this process, by their keys."""
_process = threading.Lock()
"""Held by the task that runs: working folder, threads of torch and caches are those of the process.

A worker may have several threads, and a process several workers.
"""


@dataclass(frozen=True)
class Outcome:
    """Result of a task: a value, or the sentence of its failure. `skipped` says that a task it needs has failed."""

    value: object = None
    error: str | None = None
    exit_code: int = 1
    skipped: bool = False

    def unwrap(self) -> object:
        """The value.

        Raises:
            UserError, OperationError: the task failed.
        """
        if self.error is not None:
            raise (UserError if self.exit_code == 2 else OperationError)(self.error)
        return self.value


@dataclass(frozen=True)
class Site:
    """What all tasks of a call share.

    Args:
        folder: the caller's working folder, absolute.
        mark: file with `token` in the folder of the results; a worker that reads it shares the folder.
        code: digest of the caller's code of fewstep.
        topic: Dask's topic of the tasks' reports.
        threads: of a task; None leaves the worker's own number.
        trust_plugins: whether code that models list is trusted.
    """

    folder: str
    mark: str
    token: str
    code: str
    topic: str
    threads: int | None
    trust_plugins: bool

    def problem(self) -> str | None:
        """Why this worker cannot take part; None if it can."""
        place = f"the worker on {socket.gethostname()}"
        if package_digest() != self.code:
            return f"{place} has other code of fewstep than this command; install the same commit on both"
        try:
            token = Path(self.mark).read_text(encoding="utf-8")
        except OSError:
            token = ""
        results = str(Path(self.mark).parent)
        for folder, usable in ((self.folder, Path(self.folder).is_dir()), (results, token == self.token)):
            if not usable:
                return f"{place} does not see the folder '{folder}'; a cluster needs one that all its machines share"
        return None if os.access(results, os.W_OK) else f"{place} cannot write to the folder '{results}'"


class Report:
    """Sends short reports of a task to the caller, as the name of a method and its arguments."""

    def __init__(self, site: Site, about: tuple[str, ...]) -> None:
        self._topic, self._about = site.topic, list(about)

    def __call__(self, method: str, *arguments: str | float | bool | None) -> None:
        message = {"about": self._about, "method": method, "arguments": list(arguments)}
        get_worker().log_event(self._topic, message)


def perform(
    site: Site,
    about: tuple[str, ...],
    function: Callable[..., object],
    arguments: tuple[object, ...],
    needs: tuple[Outcome, ...] = (),
) -> Outcome:
    """Run `function(report, *arguments)` on a worker; the values of `needs` follow its arguments.

    Raises:
        Reschedule: the task was asked to end, and what it did so far is kept.
    """
    failed = next((need for need in needs if need.error is not None or need.skipped), None)
    if failed:
        return Outcome(skipped=True)
    key, ending = str(get_worker().get_current_task()), Ending()
    _running[key] = ending
    try:
        with _process, trusting_plugins(site.trust_plugins), ending.heeded():
            if ending.asked:
                raise KeyboardInterrupt
            if problem := site.problem():
                raise OperationError(problem)
            os.chdir(site.folder)
            _set_threads(site.threads)
            return Outcome(function(Report(site, about), *arguments, *(need.value for need in needs)))
    except FewstepError as error:
        return Outcome(error=str(error), exit_code=error.exit_code)
    except KeyboardInterrupt:
        raise Reschedule from None
    except Exception as error:
        if os.environ.get("FEWSTEP_DEBUG") == "1":
            traceback.print_exc()
        return Outcome(error=plugins.blame(error) or f"internal error: {type(error).__name__}: {error}")
    finally:
        del _running[key]


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


class Preparation(WorkerPlugin):  # type: ignore[misc]
    """Prepares a worker for tasks of fewstep, and asks them to end when the scheduler takes them back.

    Args:
        own: whether the worker is a process of the caller, which passes signals on.
    """

    name = "fewstep"
    idempotent = True

    def __init__(self, own: bool) -> None:
        self.own = own

    def setup(self, worker: Worker) -> None:
        if self.own and threading.current_thread() is threading.main_thread():
            # A terminal sends Ctrl-C, and a queue sends SIGTERM, to all processes of a job.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            # With torch loaded the interpreter takes seconds to take itself down.
            atexit.register(os._exit, 0)

    def teardown(self, worker: Worker) -> None:
        for ending in list(_running.values()):
            ending.ask()

    def transition(self, key: object, start: str, finish: str, **facts: object) -> None:
        # A released task runs on in its thread: its caller has cancelled it, or is gone.
        if start == "executing" and finish in ("cancelled", "released") and (ending := _running.get(str(key))):
            ending.ask()


def inspect(site: Site) -> Mapping[str, str | None]:
    """Facts of this worker for a check before the first task."""
    return {"host": socket.gethostname(), "problem": site.problem()}


def running_tasks() -> int:
    """Number of tasks that run in this worker."""
    return len(_running)


@cache
def package_digest() -> str:
    """SHA-256 of all modules of fewstep."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()

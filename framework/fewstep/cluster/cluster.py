"""An open cluster: tasks are handed to it, and their reports and outcomes come back."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from distributed import Client, KilledWorker
from distributed import Future as Future
from distributed.client import FutureCancelledError

from fewstep.cluster.checks import check_versions, check_workers
from fewstep.cluster.engines import connected, has_dashboard
from fewstep.cluster.mark import marked
from fewstep.cluster.settings import ClusterSettings, load_cluster
from fewstep.cluster.worker import Outcome, Preparation, Site, package_digest, perform, running_tasks
from fewstep.core.errors import OperationError
from fewstep.core.plugins import plugins_are_trusted
from fewstep.runtime.signals import interrupted_by_sigterm

_CHECK_SECONDS = 2.0
"""Time between two looks at scheduler and workers."""
_ARRIVAL_SECONDS = 0.2
"""Longest wait for the next arrival."""
_STOP_SECONDS = 60.0
"""Time in which cancelled tasks must end."""
_ANSWER_SECONDS = 30.0
"""Time in which a scheduler must answer."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Message:
    """A report of a task: the name of a method and its arguments."""

    about: tuple[str, ...]
    method: str
    arguments: tuple[str | float | bool | None, ...]


class Cluster:
    """A connected cluster whose workers passed the checks.

    Args:
        say: prints a line on the console.
    """

    def __init__(self, client: Client, settings: ClusterSettings, site: Site, say: Say) -> None:
        self._client, self._settings, self._site, self._say = client, settings, site, say
        self._arrivals: queue.SimpleQueue[Message | Future] = queue.SimpleQueue()
        self._futures: dict[str, Future] = {}
        self._next_check = self._last_worker = time.monotonic()
        self.workers = len(client.nthreads())
        """Number of workers at the start."""
        self.threads = site.threads
        """Threads of a task; None for the workers' own number."""
        client.subscribe_topic(site.topic, self._receive)

    def submit(
        self,
        about: tuple[str, ...],
        function: Callable[..., object],
        *arguments: object,
        needs: Sequence[Future] = (),
        priority: float = 0.0,
        computes: bool = True,
    ) -> Future:
        """Hand a task to the cluster. It begins once the tasks that it needs have ended.

        Args:
            about: what the task is, for its reports.
            function: a function of a module, called as `function(report, *arguments, *values of needs)`.
            priority: tasks with a higher one begin first.
            computes: whether the task trains or draws; then it takes the cluster file's `resources` and `threads`.
        """
        site = self._site if computes else replace(self._site, threads=None)
        future = self._client.submit(
            perform,
            site,
            about,
            function,
            arguments,
            tuple(needs),
            key=f"{'-'.join(about)}-{secrets.token_hex(4)}",
            priority=priority,
            resources=self._settings.resources if computes else None,
            pure=False,
        )
        self._futures[future.key] = future
        return future

    def outcomes(self, futures: Collection[Future], receive: Callable[[Message], None]) -> Iterator[Future]:
        """Each of the futures once it has ended. Reports that arrive before it go to `receive`.

        Raises:
            OperationError: the scheduler is gone, or all workers are.
        """
        waiting = {future.key for future in futures}
        for future in futures:
            future.add_done_callback(self._arrivals.put)
        while waiting:
            for arrival in self._received():
                if isinstance(arrival, Message):
                    receive(arrival)
                elif arrival.key in waiting:
                    waiting.remove(arrival.key)
                    yield arrival
            self._check()

    def outcome(self, future: Future) -> Outcome:
        """The outcome of a future that has ended; its memory on the cluster is released with the future.

        Raises:
            OperationError: the connection to the scheduler was lost.
        """
        try:
            outcome = future.result()
        except KilledWorker:
            return Outcome(error="its worker died again and again; was there too little memory?")
        except FutureCancelledError:
            raise self._gone() from None
        except Exception as error:
            return Outcome(error=f"internal error: {type(error).__name__}: {error}")
        assert isinstance(outcome, Outcome)
        return outcome

    def wait(self, future: Future) -> Outcome:
        """The outcome of a future, once it has ended.

        Raises:
            OperationError: the scheduler is gone, or all workers are.
        """
        for _ in self.outcomes([future], lambda message: None):
            pass
        return self.outcome(future)

    def release(self, future: Future) -> None:
        """Forget a future, and free its memory on the cluster."""
        del self._futures[future.key]

    def stop(self, receive: Callable[[Message], None] = lambda message: None) -> None:
        """Ask all tasks to end, and wait until they have: trainings save their models."""
        with suppress(OSError, TimeoutError, RuntimeError):
            self._client.cancel(list(self._futures.values()), force=True)
            deadline = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < deadline:
                counts = self._client.run(running_tasks, on_error="ignore")
                for arrival in self._received():
                    if isinstance(arrival, Message):
                        receive(arrival)
                if not any(counts.values()):
                    return

    def _received(self) -> Iterator[Message | Future]:
        """What has arrived; waits for the first thing, but not long."""
        with suppress(queue.Empty):
            yield self._arrivals.get(timeout=_ARRIVAL_SECONDS)
            while True:
                yield self._arrivals.get_nowait()

    def _receive(self, event: tuple[float, object]) -> None:
        """Called by Dask in a thread of its own."""
        message = event[1]
        if isinstance(message, dict) and {"about", "method", "arguments"} <= message.keys():
            about, arguments = tuple(message["about"]), tuple(message["arguments"])
            self._arrivals.put(Message(about, message["method"], arguments))

    def _check(self) -> None:
        """Look at the scheduler and count the workers, every few seconds.

        Raises:
            OperationError: the scheduler, or all workers, are gone.
        """
        if self._client.status != "running":
            raise self._gone()
        now = time.monotonic()
        if now < self._next_check:
            return
        try:
            count = len(self._client.sync(self._client.scheduler.ncores, callback_timeout=_ANSWER_SECONDS))
        except (OSError, TimeoutError):
            raise self._gone() from None
        self._next_check = time.monotonic() + _CHECK_SECONDS
        if count:
            self._last_worker = now
        elif now - self._last_worker > self._settings.timeout:
            seconds = f"for {self._settings.timeout:g} s"
            raise OperationError(
                f"all workers of the cluster are lost, {seconds}; what is complete is stored, and the same command "
                "continues"
            )

    def _gone(self) -> OperationError:
        return OperationError(
            "the cluster's scheduler is gone; what is complete is stored, and the same command continues"
        )


@contextmanager
def open_cluster(source: str | ClusterSettings, folder: Path, say: Say) -> Iterator[Cluster]:
    """Connect to a cluster, or start one, and check that its workers can take part. SIGTERM ends the block as Ctrl-C.

    Args:
        source: cluster file or address.
        folder: the folder of the results, which all workers must see.

    Raises:
        RecipeError, UserError: the file is wrong, a package is missing, or no worker has the resources.
        OperationError: scheduler or workers do not answer, have other versions, or do not see the folder.
    """
    settings = load_cluster(source) if isinstance(source, str) else source
    with interrupted_by_sigterm(), marked(folder) as (mark, token), connected(settings) as client:
        check_versions(client)
        site = Site(
            folder=str(Path.cwd()),
            mark=str(mark.absolute()),
            token=token,
            code=package_digest(),
            topic=f"fewstep-{token}",
            threads=_threads(settings),
            trust_plugins=plugins_are_trusted(),
        )
        client.register_plugin(Preparation(own=settings.local is not None))
        check_workers(client, site, settings.resources)
        cluster = Cluster(client, settings, site, say)
        say(f"cluster: {cluster.workers} worker{'s' * (cluster.workers != 1)}; {_dashboard(client, settings)}")
        yield cluster


def _threads(settings: ClusterSettings) -> int | None:
    """Threads of a task; local workers divide those of this process."""
    if settings.local is None or settings.threads is not None:
        return settings.threads
    import torch

    return max(1, torch.get_num_threads() // settings.local.workers)


def _dashboard(client: Client, settings: ClusterSettings) -> str:
    if settings.local and not has_dashboard():
        return "no dashboard, which needs the package 'bokeh'"
    return f"dashboard: {client.dashboard_link}"

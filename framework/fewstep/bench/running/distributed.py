"""Tasks of a suite on a cluster. The cluster decides where and in which order; the session writes what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

from fewstep.bench.results.results import Row
from fewstep.bench.running.process import ProcessSettings
from fewstep.bench.running.remote import Opened, measure_row, open_model, train
from fewstep.bench.running.session import Session
from fewstep.bench.running.tasks import Task
from fewstep.bench.suites.suite import REFERENCE
from fewstep.cluster.cluster import Cluster, Future, Message


def run_on_cluster(session: Session, cluster: Cluster, settings: ProcessSettings) -> bool:
    """Run the remaining tasks of a suite on a cluster.

    A failed task stops only the tasks that need it.

    Raises:
        OperationError: a model that metrics refer to could not be trained, so nothing can be measured; or the cluster
            is gone.
        KeyboardInterrupt: stopped; trainings have saved, and complete rows are stored.
    """
    run = _Run(session, cluster, settings)
    try:
        run.submit()
        run.follow()
    except BaseException:
        cluster.stop(run.receive)
        raise
    return session.complete()


@dataclass
class _Progress:
    """A task of the session that the cluster runs as one future, or as several for a task of sampling."""

    waiting: set[str] = field(default_factory=set)
    begun: bool = False
    reason: str | None = None


class _Run:
    """The futures of a session's tasks."""

    def __init__(self, session: Session, cluster: Cluster, settings: ProcessSettings) -> None:
        self.session, self.cluster, self.settings = session, cluster, settings
        self.futures: dict[str, tuple[Task, Future]] = {}
        self.trained: dict[Task, Future] = {}
        self.tasks: dict[Task, _Progress] = {}

    # ------------------------------------------------------------- submit

    def submit(self) -> None:
        """Hand all remaining tasks to the cluster; those that are complete already are announced at once."""
        for task in self.session.tasks:
            needs = [self.trained[need] for need in self.session.needs(task) if need in self.trained]
            if not needs and not self.session.is_open(task):
                self.session.begin(task)
            elif task.kind == "train":
                self.trained[task] = self._hand_over(task, train, task.model, needs=needs)
            else:
                self._submit_sampling(task, needs)

    def _submit_sampling(self, task: Task, needs: list[Future]) -> None:
        model = None if task.model == REFERENCE else task.model
        if model is not None:
            needs = [*needs, self._hand_over(task, open_model, model, needs=needs)]
        for slot in self.session.missing(task):
            self._hand_over(task, measure_row, model, slot, needs=needs)

    def _hand_over(self, task: Task, function: object, *arguments: object, needs: list[Future]) -> Future:
        assert callable(function)
        future = self.cluster.submit(
            (task.kind, task.model),
            function,
            self.settings,
            *arguments,
            needs=needs,
            priority=self.session.critical_path(task),
        )
        self.futures[future.key] = (task, future)
        self.tasks.setdefault(task, _Progress()).waiting.add(future.key)
        return future

    # ------------------------------------------------------------- follow

    def follow(self) -> None:
        """Deliver reports and outcomes to the session until all tasks have ended."""
        for future in self.cluster.outcomes([future for _, future in self.futures.values()], self.receive):
            self._end(future.key)

    def receive(self, message: Message) -> None:
        """A report of a running task."""
        kind, model = message.about
        task = next((task for task in self.tasks if (task.kind, task.model) == (kind, model)), None)
        if task is None:
            return
        self._begin(task)
        if message.method == "line":
            text, timed = message.arguments
            self.session.line(task, str(text), bool(timed))
        elif message.method == "progressed":
            self.session.progressed(task, float(message.arguments[0] or 0))

    def _begin(self, task: Task) -> None:
        if not self.tasks[task].begun:
            self.tasks[task].begun = True
            self.session.begin(task)

    def _end(self, key: str) -> None:
        """A future has ended, and with it perhaps its task. What it needs has ended too, heard of or not."""
        task, future = self.futures[key]
        progress = self.tasks[task]
        if key not in progress.waiting:
            return
        for need in self.session.needs(task):
            if need in self.trained:
                self._end(self.trained[need].key)
        progress.waiting.remove(key)
        outcome = self.cluster.outcome(future)
        if outcome.error is not None:
            progress.reason = progress.reason or outcome.error
        self._begin(task)
        if isinstance(outcome.value, Opened):
            self.session.opened(task, outcome.value.parameters)
        elif isinstance(outcome.value, Row):
            self.session.measured(task, outcome.value)
        if not progress.waiting and not self.session.is_skipped(task):
            self.session.end(task, progress.reason)

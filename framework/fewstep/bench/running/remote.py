"""What a worker of a cluster runs for a suite: the training of a case, the opening of its model, and single rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fewstep.bench.results.results import Row
from fewstep.bench.running.plan import Plan
from fewstep.bench.running.process import ProcessSettings, make_same_plan
from fewstep.bench.running.rows import Model, Slot, measure, open_case
from fewstep.bench.running.tasks import Task, TaskRunner
from fewstep.cluster.worker import Report
from fewstep.runtime.lock import is_held
from fewstep.runtime.signals import end_is_asked

_RELEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Opened:
    """Facts of an opened model, which all rows of its case share: `values` are of metrics of the model itself."""

    parameters: int | None
    values: dict[str, float]


class _Reporter:
    """`tasks.Reporter` that sends each call to the session."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def line(self, task: Task, text: str, timed: bool) -> None:
        self._report("line", text, timed)

    def progressed(self, task: Task, passes: float) -> None:
        self._report("progressed", passes)

    def opened(self, task: Task, parameters: int | None) -> None:
        raise AssertionError("a cluster opens models in tasks of their own")

    def measured(self, task: Task, row: Row) -> None:
        raise AssertionError("a cluster measures rows in tasks of their own")


def train(report: Report, settings: ProcessSettings, model: str, *needs: object) -> None:
    """Train a case, or continue its training.

    Raises:
        KeyboardInterrupt: it was asked to end, and has saved.
    """
    report("begun")
    plan = _plan(settings)
    _wait_until_free(plan.case(model).run.path)
    runner = TaskRunner(plan, _Reporter(report), settings.commit)
    if not runner.run(Task("train", model), ()):
        raise KeyboardInterrupt


def _wait_until_free(run: Path) -> None:
    """Wait until a worker that lost its scheduler has let go of the run; it saves, and its task is now this one."""
    until = time.monotonic() + _RELEASE_SECONDS
    while is_held(run) and time.monotonic() < until and not end_is_asked():
        time.sleep(0.5)


def open_model(report: Report, settings: ProcessSettings, model: str, *needs: object) -> Opened:
    """Open the model of a case; measures what is the same in all its rows, and searches for its steps once."""
    report("begun")
    plan = _plan(settings)
    opened = open_case(plan.case(model), plan.dataset, plan.metrics(by="run"))
    return Opened(opened.parameters, opened.values)


def measure_row(report: Report, settings: ProcessSettings, model: str | None, slot: Slot, *needs: object) -> Row:
    """Draw and score one row.

    Args:
        model: the case's `id`; None for real samples. The last of `needs` is then what `open_model` returned.
    """
    report("begun")
    plan = _plan(settings)
    network = None
    if model is not None:
        opened = needs[-1]
        assert isinstance(opened, Opened)
        network = replace(_model(settings, model), values=opened.values)
    reporter = TaskRunner(plan, _Reporter(report), settings.commit)
    progress = _ended_by_request(reporter.sampling_lines(Task("sample", model or slot.case), slot))
    return measure(plan, slot, network, commit=settings.commit, progress=progress)


def _ended_by_request(progress: Callable[[int], None]) -> Callable[[int], None]:
    """The callback, which also ends the drawing between two batches when that is asked for."""

    def after_batch(count: int) -> None:
        if end_is_asked():
            raise KeyboardInterrupt
        progress(count)

    return after_batch


@lru_cache(maxsize=1)
def _plan(settings: ProcessSettings) -> Plan:
    """The session's plan, made once for a worker."""
    return make_same_plan(settings)


@lru_cache(maxsize=1)
def _model(settings: ProcessSettings, model: str) -> Model:
    """The model of the row before, or another one."""
    plan = _plan(settings)
    return open_case(plan.case(model), plan.dataset)

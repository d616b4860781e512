"""Training and measuring the models of a suite; where this happens, and what becomes of it, others decide."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from fewstep.bench.results.results import Row
from fewstep.bench.running.plan import Plan, PreparedCase
from fewstep.bench.running.rows import Slot, measure, open_model, trained_steps
from fewstep.bench.suites.suite import REFERENCE
from fewstep.bench.suites.sweep import swept_text
from fewstep.core.errors import FewstepError
from fewstep.training.launch import fit

_EVERY = 5.0
"""Seconds between two lines while samples are drawn."""
_STEP = re.compile(r"step\s+(\d+)/\d+ ")


class Task(NamedTuple):
    """A stretch of work that one process does: to train a model, or to sample and score one (or real samples)."""

    kind: Literal["train", "sample"]
    model: str
    """`id` of a case, or "data"."""

    def __str__(self) -> str:
        return f"{self.kind} {self.model}"


class Reports(Protocol):
    """Who is told what was done. The calls are few and small, since they may have to cross to another process."""

    def line(self, task: Task, text: str, timed: bool) -> None:
        """A line for the console; with the time that the suite still takes if `timed`."""

    def worked(self, task: Task, work: float) -> None:
        """So much of a task was done, in forward passes over a sample."""

    def opened(self, task: Task, parameters: int | None) -> None:
        """A model is about to be sampled."""

    def measured(self, task: Task, row: Row) -> None:
        """A row is complete."""


class Workbench:
    """Does tasks of a plan, one at a time.

    Args:
        commit: of fewstep, for the rows.
    """

    def __init__(self, plan: Plan, reports: Reports, commit: str | None) -> None:
        self.plan, self.reports, self.commit = plan, reports, commit

    def do(self, task: Task, slots: Sequence[Slot]) -> bool:
        """Do a task; False if a signal to the trainer stopped it.

        Args:
            slots: rows to measure, if it is a task of sampling.

        Raises:
            FewstepError: it cannot be done.
            KeyboardInterrupt: stopped while sampling.
        """
        case = None if task.model == REFERENCE else self.plan.case(task.model)
        if task.kind == "train":
            assert case
            return self._train(task, case)
        self._sample(task, case, slots)
        return True

    def _train(self, task: Task, case: PreparedCase) -> bool:
        lines = self._training_lines(task, case, trained_steps(case.run))
        return fit(case.loaded, case.run, dataset=self.plan.dataset, echo=lines).finished

    def _training_lines(self, task: Task, case: PreparedCase, done: int) -> Callable[[str], None]:
        """Passes the trainer's lines on, and what they say about progress."""
        each, seen = case.train_work / case.recipe.train.steps, done

        def echo(line: str) -> None:
            nonlocal seen
            found = _STEP.match(line)
            further = int(found[1]) - seen if found else 0
            if further > 0:
                self.reports.worked(task, further * each)
                seen += further
            self.reports.line(task, line, further > 0)

        return echo

    def _sample(self, task: Task, case: PreparedCase | None, slots: Sequence[Slot]) -> None:
        metrics = self.plan.metrics(by="run") if slots else []
        model = open_model(case, self.plan.dataset, metrics) if case else None
        if model:
            self.reports.opened(task, model.parameters)
        for slot in slots:
            row = measure(self.plan, slot, model, commit=self.commit, progress=self._sampling_lines(task, slot))
            self.reports.measured(task, row)

    def _sampling_lines(self, task: Task, slot: Slot) -> Callable[[int], None]:
        """Reports samples as they are drawn, and says so every few seconds."""
        drawn, said, wanted = 0, time.monotonic(), self.plan.suite.samples

        def progress(done: int) -> None:
            nonlocal drawn, said
            self.reports.worked(task, (done - drawn) * evaluations(self.plan, slot))
            drawn = done
            if time.monotonic() - said > _EVERY and done < wanted:
                said = time.monotonic()
                where = ", ".join(filter(None, (f"{slot.steps} steps", swept_text(slot.sweep), f"seed {slot.seed}")))
                self.reports.line(task, f"{where}: {done}/{wanted} samples", True)

        return progress


def evaluations(plan: Plan, slot: Slot) -> int:
    """What a sample takes, about: a model of blocks goes through the steps for each, and then reads it."""
    case = next((case for case in plan.cases if case.name == slot.case), None)
    size = getattr(case.recipe.backbone, "block_size", None) if case else None
    steps = slot.steps or 0
    return steps if size is None else (steps + 1) * (plan.dataset.spec.length // size)


def told(error: Exception) -> str:
    """An error as the reason why a case is not complete."""
    return str(error) if isinstance(error, FewstepError) else f"internal error: {type(error).__name__}: {error}"

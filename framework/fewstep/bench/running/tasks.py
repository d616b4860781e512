"""The tasks of a suite: train one model, or sample and score one. Which process runs them is decided elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from fewstep.bench.results.results import Row
from fewstep.bench.running.plan import Plan, PreparedCase
from fewstep.bench.running.rows import Slot, measure, open_case, trained_steps
from fewstep.bench.suites.suite import REFERENCE
from fewstep.bench.suites.sweep import sweep_text
from fewstep.core.errors import FewstepError
from fewstep.training.launch import fit

_LINE_INTERVAL = 5.0
"""Seconds between two lines while samples are drawn."""
_STEP = re.compile(r"step\s+(\d+)/\d+ ")


class Task(NamedTuple):
    """One task of one process: train a model, or sample and score it (or score real samples)."""

    kind: Literal["train", "sample"]
    model: str
    """`id` of a case, or "data"."""

    def __str__(self) -> str:
        return f"{self.kind} {self.model}"


class Reporter(Protocol):
    """Receiver of the progress of tasks. Calls are few and small, since they may have to cross to another process."""

    def line(self, task: Task, text: str, timed: bool) -> None:
        """A line for the console; with the suite's remaining time if `timed`."""

    def progressed(self, task: Task, passes: float) -> None:
        """A part of a task was completed, in forward passes over a sample."""

    def opened(self, task: Task, parameters: int | None) -> None:
        """A model is about to be sampled."""

    def measured(self, task: Task, row: Row) -> None:
        """A row is complete."""


class TaskRunner:
    """Runs tasks of a plan, one at a time.

    Args:
        commit: of fewstep, for the rows.
    """

    def __init__(self, plan: Plan, reporter: Reporter, commit: str | None) -> None:
        self.plan, self.reporter, self.commit = plan, reporter, commit

    def run(self, task: Task, slots: Sequence[Slot]) -> bool:
        """Run a task. Returns False if a signal to the trainer stopped it.

        Args:
            slots: rows to measure, for a task of sampling.

        Raises:
            FewstepError: the task failed.
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

    def _training_lines(self, task: Task, case: PreparedCase, step: int) -> Callable[[str], None]:
        """Callback that reports the trainer's lines, and the progress after `step` that it reads from them."""
        step_passes = case.train_passes / case.recipe.train.steps

        def echo(line: str) -> None:
            nonlocal step
            match = _STEP.match(line)
            advance = int(match[1]) - step if match else 0
            if advance > 0:
                self.reporter.progressed(task, advance * step_passes)
                step += advance
            self.reporter.line(task, line, advance > 0)

        return echo

    def _sample(self, task: Task, case: PreparedCase | None, slots: Sequence[Slot]) -> None:
        metrics = self.plan.metrics(by="run") if slots else []
        model = open_case(case, self.plan.dataset, metrics) if case else None
        if model:
            self.reporter.opened(task, model.parameters)
        for slot in slots:
            row = measure(self.plan, slot, model, commit=self.commit, progress=self.sampling_lines(task, slot))
            self.reporter.measured(task, row)

    def sampling_lines(self, task: Task, slot: Slot) -> Callable[[int], None]:
        """Callback that reports samples as they are drawn, with a line every few seconds."""
        previous, line_time, total = 0, time.monotonic(), self.plan.suite.samples

        def progress(count: int) -> None:
            nonlocal previous, line_time
            self.reporter.progressed(task, (count - previous) * evaluations(self.plan, slot))
            previous = count
            if time.monotonic() - line_time > _LINE_INTERVAL and count < total:
                line_time = time.monotonic()
                where = ", ".join(filter(None, (f"{slot.steps} steps", sweep_text(slot.sweep), f"seed {slot.seed}")))
                self.reporter.line(task, f"{where}: {count}/{total} samples", True)

        return progress


def evaluations(plan: Plan, slot: Slot) -> int:
    """Approximate evaluations of a sample. A model of blocks takes all steps in each block, and one more to read it."""
    case = next((case for case in plan.cases if case.name == slot.case), None)
    size = getattr(case.recipe.backbone, "block_size", None) if case else None
    steps = slot.steps or 0
    return steps if size is None else (steps + 1) * (plan.dataset.spec.length // size)


def error_message(error: Exception) -> str:
    """An error as the reason for an incomplete case."""
    return str(error) if isinstance(error, FewstepError) else f"internal error: {type(error).__name__}: {error}"

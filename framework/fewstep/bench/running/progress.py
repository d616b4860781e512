"""Remaining time of a suite, estimated from the speed of its tasks so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fewstep.runtime.progress import clock

Kind = Literal["train", "sample"]


@dataclass
class Stage:
    """A task as a number of forward passes over a sample; `completed` includes reused results, `measured` does not."""

    kind: Kind
    total: float
    completed: float = 0.0
    measured: float = 0.0
    seconds: float = 0.0
    started: float = 0.0

    @property
    def remaining(self) -> float:
        return max(0.0, self.total - self.completed)


class SuiteClock:
    """Estimates the remaining time. A stage that was not measured yet takes the rate of the stages of its kind.

    Args:
        stages: all of them, in order.
        now: seconds from any fixed moment.
        parallel: number of stages that run at the same time.
    """

    def __init__(
        self, stages: Iterable[Stage], now: Callable[[], float] = time.monotonic, *, parallel: int = 1
    ) -> None:
        self.stages, self.parallel = list(stages), parallel
        self._now = now
        self.start(0)

    def start(self, index: int) -> None:
        """Start the time of a stage."""
        self.stages[index].started = self._now()

    def advance(self, index: int, passes: float) -> None:
        """Count completed passes of a stage."""
        stage = self.stages[index]
        stage.completed += passes
        stage.measured += passes
        stage.seconds = self._now() - stage.started

    def drop(self, index: int) -> None:
        """Count a stage as complete, since nothing more will run in it."""
        self.stages[index].completed = self.stages[index].total

    def remaining(self) -> float | None:
        """Remaining seconds; None before the first measurement."""
        rates = [self._rate(stage) for stage in self.stages]
        if any(rate is None and stage.remaining for rate, stage in zip(rates, self.stages, strict=True)):
            return None
        durations = [stage.remaining / rate for rate, stage in zip(rates, self.stages, strict=True) if rate]
        # However many processes there are, a suite takes as long as its longest stage.
        return max(sum(durations) / self.parallel, max(durations, default=0.0))

    def text(self) -> str:
        """The remaining time as text."""
        seconds = self.remaining()
        return "suite: time left not known yet" if seconds is None else f"suite: about {clock(seconds)} left"

    def _rate(self, stage: Stage) -> float | None:
        """Passes per second."""
        same_kind = [other for other in self.stages if other.kind == stage.kind]
        for group in ([stage], same_kind, self.stages):
            passes, seconds = sum(s.measured for s in group), sum(s.seconds for s in group)
            if passes and seconds:
                return passes / seconds
        return None

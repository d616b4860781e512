"""How long the rest of a suite takes, judged by how fast it went so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fewstep.runtime.progress import clock

Kind = Literal["train", "sample"]


@dataclass
class Stage:
    """A stretch of work in one unit throughout (forward passes over a sample); `done` includes what was reused."""

    kind: Kind
    work: float
    done: float = 0.0
    measured: float = 0.0
    seconds: float = 0.0
    begun: float = 0.0

    @property
    def left(self) -> float:
        return max(0.0, self.work - self.done)


class SuiteClock:
    """Estimates the time left: each stage at its own measured rate, or else at that of others of its kind.

    Args:
        stages: all of them, in order.
        now: seconds from any fixed moment.
        parallel: how many are worked on at a time.
    """

    def __init__(
        self, stages: Iterable[Stage], now: Callable[[], float] = time.monotonic, *, parallel: int = 1
    ) -> None:
        self.stages, self.parallel = list(stages), parallel
        self._now = now
        self.start(0)

    def start(self, index: int) -> None:
        """Turn to a stage; its time runs from here."""
        self.stages[index].begun = self._now()

    def advance(self, index: int, work: float) -> None:
        """Some of a stage's work was done."""
        stage = self.stages[index]
        stage.done += work
        stage.measured += work
        stage.seconds = self._now() - stage.begun

    def drop(self, index: int) -> None:
        """Nothing more is done for a stage."""
        self.stages[index].done = self.stages[index].work

    def left(self) -> float | None:
        """Seconds, or None before anything was measured."""
        rates = [self._rate(stage) for stage in self.stages]
        if any(rate is None and stage.left for rate, stage in zip(rates, self.stages, strict=True)):
            return None
        each = [stage.left / rate for rate, stage in zip(rates, self.stages, strict=True) if rate]
        return max(sum(each) / self.parallel, max(each, default=0.0))

    def text(self) -> str:
        """The time left in words."""
        left = self.left()
        return "suite: time left not known yet" if left is None else f"suite: about {clock(left)} left"

    def _rate(self, stage: Stage) -> float | None:
        """Work a second."""
        same = [other for other in self.stages if other.kind == stage.kind]
        for group in ([stage], same, self.stages):
            work, seconds = sum(s.measured for s in group), sum(s.seconds for s in group)
            if work and seconds:
                return work / seconds
        return None

"""Phase of each step of a training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fewstep.objectives.base import Phase


class Turns:
    """Cycle of phases; a phase joins the cycle at its first step (`Phase.after`) and leaves it (`Phase.until`).

    Args:
        phases: the objective's phases.
        steps: optimiser steps of the training.

    Raises:
        ValueError: there are steps without a phase.
    """

    def __init__(self, phases: Sequence[Phase], steps: int) -> None:
        self.steps = steps
        self.cycle = [phase for phase in phases for _ in range(phase.repeat)]
        for mark in (0, *map(self._end, self.cycle)):
            if mark < steps and not self._ready(mark):
                raise ValueError(f"no phase trains anything at step {mark} of {steps}")

    def at(self, step: int) -> Phase:
        """The phase of step `step`, counted from 0."""
        ready = self._ready(step)
        return ready[step % len(ready)]

    def ramp(self, role: str, step: int) -> float:
        """Factor of a role's learning rate at step `step`, from above 0 to 1."""
        phase = self.at(step)
        length = phase.ramp * self.steps
        return min(1.0, (step - self._begin(phase) + 1) / length) if role in phase.ramped and length > 0 else 1.0

    def _ready(self, step: int) -> list[Phase]:
        return [phase for phase in self.cycle if self._begin(phase) <= step < self._end(phase)]

    def _begin(self, phase: Phase) -> int:
        return int(phase.after * self.steps)

    def _end(self, phase: Phase) -> int:
        return int(phase.until * self.steps)

    def updates(self, role: str) -> int:
        """Number of updates of a role in the whole training."""
        total, marks = 0, sorted({*map(self._begin, self.cycle), *map(self._end, self.cycle), self.steps})
        for begin, end in pairwise(marks):
            ready = self._ready(begin)
            for place, phase in enumerate(ready):
                if role in phase.train:  # steps of [begin, end) that are `place` modulo the cycle's length
                    total += (end - 1 - place) // len(ready) - (begin - 1 - place) // len(ready)
        return total

"""Whose turn it is at each step of a training."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.objectives.base import Phase


class Turns:
    """Phases in a fixed cycle, each from its beginning on.

    Args:
        phases: what the objective declares.
        steps: optimiser steps of the training.
    """

    def __init__(self, phases: Sequence[Phase], steps: int) -> None:
        self.steps = steps
        self.cycle = [phase for phase in phases for _ in range(phase.repeat)]

    def at(self, step: int) -> Phase:
        """The phase of step `step`, counted from 0."""
        ready = [phase for phase in self.cycle if step >= int(phase.after * self.steps)]
        return ready[step % len(ready)]

    def updates(self, role: str) -> int:
        """How often a role is trained in all of the training."""
        return sum(role in self.at(step).train for step in range(self.steps))

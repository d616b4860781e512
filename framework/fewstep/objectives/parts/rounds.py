"""Rounds of distillers that learn ever longer steps: the step doubles, and the student becomes the next teacher."""

from __future__ import annotations

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.objectives.base import StepContext


class RoundsConfig(ComponentConfig):
    """Settings of objectives with rounds, which divide the steps of a training evenly."""

    first_step: float = Field(1 / 1024, gt=0, le=0.5, description="length of a teacher's step in the first round")
    rounds: int = Field(7, ge=1, description="the step doubles with each; the student then becomes the teacher")

    @property
    def last_step(self) -> float:
        """Length of a teacher's step in the last round."""
        return self.length(self.rounds - 1)

    def length(self, number: int) -> float:
        """Length of a teacher's step in round `number`, counted from 0; at most 1."""
        return float(min(1.0, self.first_step * 2**number))

    def round(self, ctx: StepContext) -> int:
        """Round of the next optimiser step; see `round_of`."""
        return round_of(self.rounds, ctx)

    def begins(self, ctx: StepContext) -> bool:
        """Whether a new round begins with the next optimiser step."""
        return round_begins(self.rounds, ctx)


def round_of(rounds: int, ctx: StepContext) -> int:
    """Round of the next optimiser step, from 0, if `rounds` divide the training evenly.

    It is computed from the step, so a resumed run agrees.
    """
    return min(rounds - 1, ctx.step * rounds // max(1, ctx.steps))


def round_begins(rounds: int, ctx: StepContext) -> bool:
    """Whether a new round, other than the first one, begins with the next optimiser step."""
    before = (ctx.step - 1) * rounds // max(1, ctx.steps)
    return 0 < ctx.step < ctx.steps and round_of(rounds, ctx) > before


def refresh_teacher(config: RoundsConfig, ctx: StepContext) -> None:
    """At the start of a round, copy the student's weights to the teacher; for an objective's `after_step`."""
    teacher, student = ctx.roles["teacher"], ctx.roles["student"]
    if config.begins(ctx):
        teacher.start_from(student)

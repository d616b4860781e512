"""A teacher that is trained on while it is distilled: a copy learns from data, and the teacher is its moving average.

The copy's own weights are noisy, as those of any network in training. Its average is what a trained teacher is, and a
target that moves slowly. Trained in place, the teacher would become the former with its first update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, repeat

import torch
from pydantic import Field

from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import Batch, LossOutput, Phase, StepContext
from fewstep.objectives.denoising import Denoising

LEARNER = "learner"
"""Role of the copy."""


class TeacherTraining(Strict):
    """Updates of the teacher between those of the game."""

    every: int = Field(4, ge=1, description="rounds of the game for each update of the teacher's copy")
    decay: float = Field(0.999, ge=0, lt=1, description="decay of the teacher, the moving average of its copy")
    denoising: Denoising.Config = Field(
        Denoising.Config(), description="loss of the copy, as of `objective: denoising`"
    )


def with_teacher(game: Sequence[Phase], config: TeacherTraining, after: float) -> list[Phase]:
    """A cycle of phases in which the copy has one step after every few rounds of the game."""
    return [*chain.from_iterable(repeat(game, config.every)), Phase("teacher", (LEARNER,), after=after)]


def teacher_loss(config: TeacherTraining, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
    """The copy's loss on real data."""
    inner = replace(ctx, roles={"student": ctx.roles[LEARNER]})
    output = Denoising(config.denoising).loss(phase, batch, inner)
    ctx.terms = inner.terms
    return output


@torch.no_grad()
def follow(config: TeacherTraining, ctx: StepContext) -> None:
    """Move the teacher towards its copy, after an update of that."""
    for weight, copy in zip(ctx.roles["teacher"].parameters(), ctx.roles[LEARNER].parameters(), strict=True):
        weight.lerp_(copy, 1 - config.decay)


def check_teacher(ctx: StepContext) -> None:
    """Refuse teachers that cannot follow a copy.

    Raises:
        UserError: networks are sharded, or the teacher has a noise input or halved weights.
    """
    teacher, key = ctx.roles["teacher"], "objective.teacher_training"
    if ctx.ranks.together:
        raise UserError(
            f"{key}: the teacher follows a whole copy, and networks are sharded; set parallel.strategy to ddp"
        )
    if not isinstance(teacher, NetworkDenoiser):
        raise UserError(
            f"{key}: this teacher is a mixture over a noise input, which cannot be trained on; set it to null"
        )
    if any(parameter.dtype == torch.bfloat16 for parameter in teacher.parameters()):
        raise UserError(
            f"{key}: the teacher's weights are in bfloat16, too coarse to move; set teacher.dtype to float32"
        )

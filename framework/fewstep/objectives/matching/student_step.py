"""The first part of moment-matching objectives: one sampling step of the student from noised real data.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import Batch, StepContext
from fewstep.objectives.matching.times import TimeLaw, draw_times
from fewstep.objectives.parts.shares import rows_of_share
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, Process, StepMasks, discrete, find_masks
from fewstep.runtime.streams import uniform

Renoise = Literal["posterior", "forward", "forward_soft"]
Target = Literal["auto", "soft", "hard"]


@dataclass(frozen=True)
class StudentStep:
    """z_t, the student's `prediction` there, its hard draw `x`, and z_s, which is noised from that x: ids [B, L].

    x is drawn by `levels`, uniform numbers [B, L], when it is read. A masked process needs it only where z_s is not
    masked, and losses with soft targets read no other, so a large vocabulary's rows are computed once, not twice.

    Times are [B], or [B, L] for models with one time per block. `next_time` is the second time of a network that is
    conditioned on the step and called at s. It is as far below s as the end of the student's step is below t.
    """

    prediction: Prediction
    levels: Tensor
    z_t: Tensor
    z_s: Tensor
    t: Tensor
    s: Tensor
    next_time: Tensor

    @cached_property
    def x(self) -> Tensor:
        """The student's hard draw."""
        return self.prediction.sample_at(self.levels)


@dataclass(frozen=True)
class StepDraws:
    """What a step draws before any network is called: z_t [B, L] at t, the times s and `end`, levels [B, L], places."""

    z_t: Tensor
    t: Tensor
    s: Tensor
    end: Tensor
    levels: Tensor
    masks: StepMasks | None


def draw_step(
    batch: Batch,
    ctx: StepContext,
    *,
    k: int | tuple[int, int],
    min_time: float,
    times: TimeLaw = "uniform",
    renoise: Renoise = "posterior",
    below_end: float = 0.0,
    backward: float = 0.0,
) -> StepDraws:
    """Noise data to t, and draw what the student's step from there is drawn by (arXiv 2603.20155, Algorithm 1).

    Args:
        times: distribution of the times, see `draw_times`. A student that is conditioned on its step gets the end of
            the sampler's step.
        renoise: z_s from q(z_s | z_t, x), from q(z_s | x), or from Cat(alpha_s p + (1 - alpha_s) pi), drawn as
            q(z_s | x) with a second draw x.
        below_end: share of draws whose s is below the end of the step, see `draw_times`.
        backward: share of samples whose z_t is where the student's own walk from noise has come to at t, in place of
            noised data (backward simulation, arXiv 2405.14867).
    """
    t, s, end = draw_times(times, batch.size, k, min_time, ctx.sample_time_of_blocks, below_end)
    z_t = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
    if backward:
        rows = rows_of_share(backward, batch.size, ctx)
        steps = k if isinstance(k, int) else k[1]
        z_t = z_t.index_copy(0, rows, walk(t[rows], steps, batch.cond.select(rows), ctx.select(rows)))
    levels, masks = uniform(z_t.shape, ctx.generators["sample"], device=z_t.device), None
    if renoise == "posterior":
        (masks,) = discrete(ctx.process).draw_masks(z_t, (t, s), generator=ctx.generators["sample"])
    return StepDraws(z_t, t, s, end, levels, masks)


def student_step(
    batch: Batch, ctx: StepContext, draws: StepDraws, *, grad: bool, renoise: Renoise = "posterior"
) -> StudentStep:
    """Let the student take its step from z_t to s (arXiv 2603.20155, Algorithm 1, lines 1 to 5).

    Gradients reach the student through the prediction alone, and only if `grad`.
    """
    find_masks(ctx.process, [draws.z_t], [draws.masks])
    z_t, t, s, end, levels = draws.z_t, draws.t, draws.s, draws.end, draws.levels
    with torch.set_grad_enabled(grad):
        prediction = ctx.roles["student"](z_t, t, end, cond=batch.cond, generator=ctx.generators["noise"])
    rng = ctx.generators["sample"]
    if renoise == "posterior":
        z_s = discrete(ctx.process).step_at(z_t, prediction, levels, t, s, generator=rng, masks=draws.masks)
    else:
        if renoise == "forward_soft":
            # The target of other networks at z_s has to be this draw: where noise keeps a token, z_s shows it. With the
            # first draw as target the auxiliary of the uniform process would learn that z_s says nothing.
            levels = uniform(z_t.shape, rng, device=z_t.device)
        z_s = ctx.process.corrupt(prediction.sample_at(levels), s, generator=rng).x_t
    return StudentStep(prediction, levels, z_t, z_s, t, s, s - (t - end))


@torch.no_grad()
def walk(t: Tensor, steps: int, cond: Condition, ctx: StepContext) -> Tensor:
    """States [B, L] at times t [B] of the student's own samples, whose steps from 1 have length 1 / `steps`."""
    student, noise, rng = ctx.roles["student"], ctx.generators["noise"], ctx.generators["sample"]
    z = ctx.process.prior((len(t), student.length), device=ctx.device, generator=rng)
    now = torch.ones_like(t)
    for _ in range(steps):
        end = (now - 1 / steps).clamp_min(0.0)
        then = torch.maximum(end, t)
        prediction = student(z, now, end, cond=cond, generator=noise)
        z, now = ctx.process.step_back(z, prediction, now, then, generator=rng), then
    return z


def soft_targets(target: Target, process: Process) -> bool:
    """Whether the student's probabilities replace its tokens in losses of other networks; auto: if that is unbiased."""
    return target == "soft" or (target == "auto" and process.carry_over)


def check_target(key: str, target: Target, recipe: RecipeView) -> Iterator[tuple[str, str]]:
    """Refuse soft targets if z_s reveals which token was drawn; for an objective's `Config.check_recipe`."""
    if target == "soft" and not PROCESSES.get(recipe.process.type).cls.carry_over:
        yield (
            key,
            f"soft targets are biased for the {recipe.process.type} process, whose z_s depends on the drawn "
            "tokens; use 'hard' or 'auto'",
        )

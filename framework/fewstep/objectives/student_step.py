"""What moment-matching objectives begin with: one sampling step of the student from noised real data.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.objectives.base import StepContext
from fewstep.prediction import Prediction


@dataclass(frozen=True)
class StudentStep:
    """z_t, the student's `prediction` there, its hard draw `x` and z_s ~ q(z_s | z_t, x); ids [B, L], times [B]."""

    prediction: Prediction
    x: Tensor
    z_t: Tensor
    z_s: Tensor
    t: Tensor
    s: Tensor


def student_step(x0: Tensor, ctx: StepContext, *, k: int, min_time: float, grad: bool) -> StudentStep:
    """Noise `x0` [B, L] to t and let the student take one step to s (arXiv 2603.20155, Algorithm 1, lines 1 to 5).

    s ~ U(min_time, 1), t = min(1, s + U(0, 1/k)). Gradients reach the student through the prediction alone, and
    only if `grad`.
    """
    s = min_time + (1 - min_time) * ctx.sample_time(len(x0))
    t = (s + ctx.sample_time(len(x0)) / k).clamp(max=1.0)
    z_t = ctx.process.corrupt(x0, t, generator=ctx.generators["noise"]).x_t
    with torch.set_grad_enabled(grad):
        prediction = ctx.roles["student"](z_t, t, generator=ctx.generators["noise"])
    x = prediction.sample(generator=ctx.generators["sample"])
    z_s = ctx.process.posterior_sample(x, z_t, t, s, generator=ctx.generators["sample"])
    return StudentStep(prediction, x, z_t, z_s, t, s)


def weight_at(s: Tensor, ctx: StepContext, weighting: Literal["constant", "elbo"]) -> Tensor:
    """w(s) [B, 1]: 1, or -alpha'/(1 - alpha)."""
    weight = ctx.process.schedule.elbo_weight(s) if weighting == "elbo" else torch.ones_like(s)
    return weight[:, None]

"""Ancestral sampling with corrections.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("corrector")
class CorrectorSampler(WalkSampler):
    """After each ancestral step adds noise and steps back with a new prediction, `corrections` times.

    z_s' ~ q(z_s' | z_s), then z_s ~ E_{x ~ p(x | z_s')}[q(z_s | z_s', x)], with s' = s + reach (t - s). Both halves
    preserve each token's distribution at s, so a correction repairs joint errors of tokens that were drawn at once
    (predictor-corrector, arXiv 2205.14987). NFE = steps x (1 + corrections). After the last step it corrects clean
    samples, and each correction ends with x ~ prediction, which leaves no noise.
    """

    class Config(WalkConfig):
        type: Literal["corrector"] = "corrector"
        corrections: int = Field(1, ge=0, description="corrections after each step; each takes an evaluation")
        reach: float = Field(0.5, gt=0, le=1, description="share of a step's noise that a correction adds again")

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        x = walk.take(walk.predict(x, step), x, step)
        back = replace(step, t=step.s + self.config.reach * (step.t - step.s))
        for _ in range(self.config.corrections):
            x = add_noise(walk, x, back)
            x = walk.take(walk.predict(x, back), x, back)
        return x


def add_noise(walk: Walk, x: Tensor, step: Step) -> Tensor:
    """z_t ~ q(z_t | z_s), or q(z_t | x) after the last step, with the given tokens held; LongTensor [B, L]."""
    process, (now, then) = walk.discrete, walk.times(x, step.t, step.s)
    if step.last:
        noised = process.corrupt(x, now, generator=walk.generator).x_t
    else:
        noised = process.corrupt_further(x, then, now, generator=walk.generator)
    return walk.hold(noised, step.t)

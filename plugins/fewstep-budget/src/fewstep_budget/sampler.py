"""Sampling by jumps over whole steps.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.flow import FlowSampler
from fewstep.samplers.walk import Step, Walk
from fewstep_budget.jump import cumulative_jump


@SAMPLERS.register("cumulative")
class CumulativeSampler(FlowSampler):
    """Leaves a token z with probability 1 - r^(1 - p(z)), r = (1 - alpha_s) / (1 - alpha_t) (FS-DFM's step).

    It is one jump at the rates of the flow, summed over the step. `flow` takes all jumps that these rates make while
    the prediction stands, the way back to z among them: it leaves z with probability (1 - r)(1 - p(z)), which is less.
    Both agree as steps get shorter. With masks both are ancestral sampling.
    """

    class Config(FlowSampler.Config):
        type: Literal["cumulative"] = "cumulative"  # type: ignore[assignment]

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        if step.last or walk.denoiser.process.carry_over:
            return super().step(walk, x, step)
        now, then = walk.times(x, step.t, step.s)
        process = walk.denoiser.process
        return cumulative_jump(process, walk.predict(x, step), x, now, then, generator=walk.generator)

"""Discrete flow: tokens jump from noise to data once.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fewstep.processes.base import TINY
from fewstep.runtime.streams import uniform
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("flow")
class FlowSampler(WalkSampler):
    """Keeps each token until it turns, once, into a draw from the prediction.

    A step replaces a token by x ~ prediction with probability (alpha_s - alpha_t) / (1 - alpha_t). This is the flow
    along paths on which a token is its noise until it turns into x (discrete flow matching, arXiv 2407.15595,
    section 3). Noise stays as long as possible, so start and sample are closer than with the posterior, which draws
    noise again. Students of `rectified` need this sampler. With masks it is ancestral sampling.
    """

    class Config(WalkConfig):
        type: Literal["flow"] = "flow"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        prediction = walk.predict(x, step)
        if step.last:
            return prediction.sample(generator=walk.generator)
        now, then = map(walk.denoiser.process.schedule.alpha, walk.times(x, step.t, step.s))
        chance = (then - now) / (1 - now).clamp_min(TINY)
        jumps = prediction.where & (uniform(x.shape, walk.generator, device=x.device) < chance[:, None])
        return prediction.sample(generator=walk.generator, where=jumps)

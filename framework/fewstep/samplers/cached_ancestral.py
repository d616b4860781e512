"""Ancestral sampling that asks the network only for samples in which a token appears.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("cached_ancestral")
class CachedAncestralSampler(WalkSampler):
    """The samples of `ancestral`, with an evaluation only where a mask is revealed.

    Which masks a step reveals does not depend on what is under them, so that is drawn first. A sample in which nothing
    is revealed needs no prediction, and one whose tokens change has an evaluation for each change at most: the bound
    of samplers that keep the last prediction until a token changes (MDLM, arXiv 2406.07524), without keeping it, so it
    also holds for networks that are told the time or have a noise input.
    """

    masks_only: ClassVar[bool] = True

    class Config(WalkConfig):
        type: Literal["cached_ancestral"] = "cached_ancestral"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        now, then = walk.times(x, step.t, step.s)
        # A schedule that stops short of alpha = 1 would leave some masks at s = 0.
        revealed = walk.masked.revealed(x, now, then, generator=walk.generator) | step.last
        revealed &= walk.masks(x)
        changed = revealed.any(1)
        if not changed.any():
            return x
        part = walk.select(changed)
        found = part.predict(x[changed], step).sample(generator=part.generator, where=revealed[changed])
        out = x.clone()
        out[changed] = found
        return out

"""Ancestral sampling that evaluates the network only for samples that reveal a token.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.filling import for_some
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("cached_ancestral")
class CachedAncestralSampler(WalkSampler):
    """The samples of `ancestral`, with an evaluation only where a mask is revealed.

    The choice of the masks that a step reveals does not depend on their tokens, so it is drawn first. A sample that
    reveals nothing in a step needs no prediction, so its evaluations are at most the number of its changes. Samplers
    that store the last prediction until a token changes have the same bound (MDLM, arXiv 2406.07524). Nothing is stored
    here, so the bound also holds for networks that are conditioned on time or have a noise input.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True)

    class Config(WalkConfig):
        type: Literal["cached_ancestral"] = "cached_ancestral"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        now, then = walk.times(x, step.t, step.s)
        # A schedule that stops short of alpha = 1 would leave some masks at s = 0.
        revealed = walk.masked.draw_reveals(x, now, then, generator=walk.generator) | step.last
        revealed &= walk.masks(x)
        walk.memory["revealed"] = revealed
        return for_some(revealed.any(1), self._fill, walk, x, step)

    @staticmethod
    def _fill(walk: Walk, x: Tensor, step: Step) -> Tensor:
        """The step of samples that each reveal a token."""
        return walk.predict(x, step).sample(generator=walk.generator, where=walk.memory["revealed"])

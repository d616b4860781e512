"""The sampler `refine_confidence`.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fewstep import SAMPLERS, Step, Walk, WalkConfig, WalkSampler
from fewstep.samplers.base import SamplerTraits
from fewstep.samplers.confidence import Order, masks_left
from fewstep_refine.proposals import Proposals


@SAMPLERS.register("refine_confidence")
class RefineByConfidence(WalkSampler):
    """Draws every token at each step, keeps the surest, and puts new noise in the place of all others.

    It does for the uniform process what MaskGIT's confidence (arXiv 2202.04200) does with masks: of the f tokens that
    are not given, floor(f (1 - alpha(s))) are noise after a step to s, so that a state has as much noise as the network
    expects at that time. Unlike masks, a token that was kept is drawn again at the next step, so a mistake can be
    mended. A state holds the surest tokens and not random ones, so samples do not follow the network's distribution,
    however many steps there are.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(exact=False)

    class Config(WalkConfig):
        type: Literal["refine_confidence"] = "refine_confidence"
        order: Order = Field(
            "confidence",
            description="keep the places whose drawn token is likeliest, whose best token leads the second by most, "
            "whose prediction has the least entropy, or any",
        )

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        t, s = walk.times(x, step.t, step.s)
        proposals = Proposals.draw(walk, x, t, s, step, self.config.order)
        if step.last:
            return proposals.tokens
        noisy = masks_left(walk.free(x).sum(1), walk.discrete.schedule, s)
        return proposals.keep(x.shape[1] - noisy, walk)

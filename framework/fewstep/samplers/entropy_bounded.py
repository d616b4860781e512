"""Filling in as many masks at once as the entropy of the prediction allows.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.processes.masks import ranks
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.confidence import sureness
from fewstep.samplers.filling import FillingSampler, draw_and_score
from fewstep.samplers.walk import Step, Walk, WalkConfig


@SAMPLERS.register("entropy_bounded")
class EntropyBoundedSampler(FillingSampler):
    """Reveals at once the surest masks, up to a budget of total entropy (EB-sampler, arXiv 2505.24857).

    An evaluation reveals the largest set of masks of lowest entropy with sum H - max H <= budget, at least one. That
    difference bounds the loss by independent draws, since the joint entropy is at least the highest single one. `steps`
    is the largest number of evaluations, and the last one reveals all remaining masks. A finished sample takes no more
    evaluations, so NFE is a mean. With budget 0 tokens are drawn one by one, except certain ones.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True, exact=False)

    class Config(WalkConfig):
        type: Literal["entropy_bounded"] = "entropy_bounded"
        budget: float = Field(
            0.1, ge=0, description="nats that a step may lose by independent draws; 0 draws one token at a time"
        )

    config: Config

    def fill(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        masks = walk.masks(x)
        prediction = walk.unshaped(x, *walk.times(x, step.t, step.s))
        tokens, scores = draw_and_score(
            prediction, masks, walk.shaping(step), lambda p, i: sureness("entropy", p, i), walk.generator
        )
        reveal = masks.sum(1) if step.last else within_budget(-scores, self.config.budget)
        return torch.where(masks & (ranks(scores) < reveal[:, None]), tokens, x)


def within_budget(entropies: Tensor, budget: float) -> Tensor:
    """Largest number of entropies of each row, from the lowest up, whose sum minus their largest is within budget.

    Args:
        entropies: [B, L], infinite where there is no mask; each row has a finite one.

    Returns:
        LongTensor [B], at least 1.
    """
    rising = entropies.sort(1).values
    sums = torch.cat((torch.zeros_like(rising[:, :1]), rising.cumsum(1)[:, :-1]), 1)  # without the largest
    return ((sums <= budget) & rising.isfinite()).sum(1)

"""Filling in as many masks at once as the entropy of the prediction allows.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.processes.masks import ranks
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.confidence import scored
from fewstep.samplers.filling import FillingSampler, draw_and_score
from fewstep.samplers.walk import Step, Walk, WalkConfig


@SAMPLERS.register("entropy_bounded")
class EntropyBoundedSampler(FillingSampler):
    """Reveals at once the surest masks whose entropies add up to little (EB-sampler, arXiv 2505.24857).

    An evaluation reveals the largest set of masks of lowest entropy with sum H - max H <= budget, at least one. That
    difference bounds what is lost by drawing them independently: their joint entropy is no less than the highest one
    alone. `steps` is the most evaluations, and the last one reveals what is left; a sample that is done earlier takes
    no more, so NFE is a mean. With budget 0 tokens come one by one, but for those that are certain.
    """

    exact: ClassVar[bool] = False

    class Config(WalkConfig):
        type: Literal["entropy_bounded"] = "entropy_bounded"
        budget: float = Field(
            0.1, ge=0, description="nats a step may lose by drawing tokens independently; 0 draws one at a time"
        )

    config: Config

    def fill(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        masks = walk.masks(x)
        prediction = walk.unshaped(x, *walk.times(x, step.t, step.s))
        drawn, scores = draw_and_score(
            prediction, masks, walk.shaping(step), lambda p, i: scored("entropy", p, i), walk.generator
        )
        reveal = masks.sum(1) if step.last else within_budget(-scores, self.config.budget)
        return torch.where(masks & (ranks(scores) < reveal[:, None]), drawn, x)


def within_budget(entropies: Tensor, budget: float) -> Tensor:
    """The most entropies of each row, from the lowest up, whose sum less their largest is within budget.

    Args:
        entropies: [B, L], infinite where there is no mask; each row has one that is finite.

    Returns:
        LongTensor [B], at least 1.
    """
    rising = entropies.sort(1).values
    others = torch.cat((torch.zeros_like(rising[:, :1]), rising.cumsum(1)[:, :-1]), 1)  # all but the largest
    return ((others <= budget) & rising.isfinite()).sum(1)

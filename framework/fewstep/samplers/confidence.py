"""Filling in masks in an order that the prediction chooses.

Shapes: B batch, L tokens, V vocabulary, n rows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.predictions.draws import expectation
from fewstep.processes.masks import ranks
from fewstep.runtime.streams import Randomness, uniform
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.filling import FillingSampler, draw_and_score
from fewstep.samplers.walk import Step, Walk, WalkConfig
from fewstep.schedules.base import NoiseSchedule

Order = Literal["confidence", "margin", "entropy", "random"]


@SAMPLERS.register("confidence")
class ConfidenceSampler(FillingSampler):
    """Draws every mask at each step and keeps the surest (MaskGIT, arXiv 2202.04200; LLaDA, arXiv 2502.09992).

    Of the f tokens that are not given, floor(f (1 - alpha(s))) are masks after a step to s. Each step keeps at least
    one, so f steps are enough, and finished samples are not evaluated again. One token at a time, `random`, `margin`
    and `entropy` follow the denoiser's distribution, because they choose a place independently of the token drawn
    there; `confidence` depends on it, and prefers likely tokens. Draws that a step does not keep are discarded.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True, exact=False)

    class Config(WalkConfig):
        type: Literal["confidence"] = "confidence"
        order: Order = Field(
            "confidence",
            description="keep the masks whose drawn token is likeliest, whose best token leads the second by most, "
            "whose prediction has the least entropy, or any",
        )
        choice_temperature: float = Field(
            0.0, ge=0, description="Gumbel noise on the scores, which falls to 0 over the steps; MaskGIT has 4.5"
        )

    config: Config

    def fill(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        masks, (t, s) = walk.masks(x), walk.times(x, step.t, step.s)
        order, generator = self.config.order, walk.generator
        tokens, scores = draw_and_score(
            walk.unshaped(x, t, s), masks, walk.shaping(step), lambda p, i: sureness(order, p, i), generator
        )
        heat = self.config.choice_temperature * (1 - (step.index + 1) / step.count)
        if order == "random" or heat > 0:
            scores = scores + (1.0 if order == "random" else heat) * gumbel(scores, generator)
        count = masks.sum(1)
        reveal = count - self.masks_left_after(walk, step, walk.free(x).sum(1), count)
        return torch.where(masks & (ranks(scores) < reveal[:, None]), tokens, x)

    def masks_left_after(self, walk: Walk, step: Step, free: Tensor, masks: Tensor) -> Tensor:
        if step.last:
            return torch.zeros_like(masks)
        left = masks_left(free, walk.denoiser.process.schedule, *walk.times(free, step.s))
        return torch.minimum(left, masks - 1).clamp_min(0)


def sureness(order: Order, log_p: Tensor, tokens: Tensor) -> Tensor:
    """Sureness of predictions, float [n]; in nats, so that one temperature suits all orders.

    confidence: log p(token); margin: log(best - second best); entropy: sum p log p; random: 0.

    Args:
        log_p: log-probabilities [n, V].
        tokens: drawn symbols [n].
    """
    if order == "confidence":
        return log_p.gather(1, tokens[:, None])[:, 0]
    if order == "margin":
        best = log_p.topk(2, 1).values.exp()
        return (best[:, 0] - best[:, 1]).log()
    if order == "entropy":
        return expectation(log_p, log_p)
    return torch.zeros_like(log_p[:, 0])


def masks_left(free: Tensor, schedule: NoiseSchedule, s: Tensor) -> Tensor:
    """floor(f (1 - alpha(s))) of f tokens (LongTensor [B]) at times s (float64 [B]).

    Levels are rescaled between the schedule's ends. Otherwise a schedule whose ends are 1e-4 off would leave one mask
    too few whenever f (1 - alpha) should be an integer, and so never go token by token.
    """
    clean, noise = schedule.ends
    share = (clean - schedule.alpha(s)) / (clean - noise)
    return (free * share + 1e-9).long()  # rounding may put a third of 3 below 1


def gumbel(scores: Tensor, generator: Randomness) -> Tensor:
    """Standard Gumbel noise of the shape of `scores`."""
    u = uniform(scores.shape, generator, device=scores.device)
    return -(-u.clamp_min(torch.finfo(u.dtype).tiny).log()).log()

"""Tokens that a step proposes for all places, and the state that keeps the surest of them.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep import Step, Walk
from fewstep.processes.masks import ranks
from fewstep.samplers.confidence import Order, sureness
from fewstep.samplers.filling import draw_and_score


@dataclass(frozen=True)
class Proposals:
    """A token for each place, and how sure the network is of it.

    Args:
        tokens: LongTensor [B, L]; the given and the known ones stay.
        scores: float64 [B, L]; infinite where nothing was drawn.
        drawn: places that were drawn (BoolTensor [B, L]): those that the process has a prediction for, but the given.
    """

    tokens: Tensor
    scores: Tensor
    drawn: Tensor

    @classmethod
    def draw(cls, walk: Walk, x: Tensor, t: Tensor, s: Tensor, step: Step, order: Order) -> Proposals:
        """Proposals from states x at times t (float64 [B]) on the way to times s."""
        drawn = walk.denoiser.process.to_predict(x) & walk.free(x)
        prediction = walk.unshaped(x, t, s)
        tokens, scores = draw_and_score(
            prediction, drawn, walk.shaping(step), lambda p, i: sureness(order, p, i), walk.generator
        )
        return cls(tokens, scores.masked_fill(~drawn, torch.inf), drawn)

    def keep(self, count: Tensor, walk: Walk) -> Tensor:
        """The state in which the `count` surest places (LongTensor [B]) have their tokens, and all others new noise."""
        batch, length = self.tokens.shape
        noise = walk.denoiser.process.prior((batch, length), device=count.device, generator=walk.generator)
        return torch.where(ranks(self.scores) < count[:, None], self.tokens, noise)

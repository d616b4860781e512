"""Base of samplers that choose the masks to fill in.

Shapes: B batch, L tokens, V vocabulary, n rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.draws import draw_at
from fewstep.runtime.streams import Randomness, uniform
from fewstep.samplers.base import SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkSampler

Score = Callable[[Tensor, Tensor], Tensor]
"""Log-probabilities [n, V] and drawn symbols [n] -> scores [n]."""

_LOWEST = -1e30
"""Lowest score of a mask: above -inf, the score of places that are no masks."""


class FillingSampler(WalkSampler):
    """A sampler that fills in masks, and evaluates only samples with masks left."""

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True)

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        unfinished = walk.masks(x).any(1)
        if not unfinished.any():
            return x
        out = x.clone()
        out[unfinished] = self.fill(walk.select(unfinished), x[unfinished], step)
        return out

    @abstractmethod
    def fill(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        """`step` for samples that each have a mask (LongTensor [B, L])."""


def draw_and_score(
    prediction: Prediction, masks: Tensor, shaping: Iterable[RowMap], score: Score, generator: Randomness
) -> tuple[Tensor, Tensor]:
    """A token and a score for every mask, from one pass over the rows of a prediction.

    Tokens are drawn from the shaped rows. Scores come from the network's own rows, since a low temperature would make
    all scores alike.

    Args:
        masks: BoolTensor [B, L], within `prediction.where`.

    Returns:
        Tokens (LongTensor [B, L]) and scores (float64 [B, L]). Outside `masks` they are the known tokens and -inf.
    """
    levels = uniform(masks.shape, generator, device=masks.device)

    def read(log_p: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        shaped = log_p
        for row_map in shaping:
            shaped = row_map(shaped)
        symbols = draw_at(shaped, level)
        return symbols, score(log_p, symbols).double()

    tokens, scores = prediction.scan(read, masks, levels)
    lowest = torch.full(masks.shape, -float("inf"), dtype=torch.float64, device=masks.device)
    return prediction.known.masked_scatter(masks, tokens), lowest.masked_scatter(masks, scores.clamp_min(_LOWEST))

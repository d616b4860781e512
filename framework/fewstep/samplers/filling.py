"""Base of samplers that choose the masks to fill in.

Shapes: B batch, L tokens, V vocabulary, n rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.draws import draw_at
from fewstep.runtime.device import send
from fewstep.runtime.streams import Randomness, uniform
from fewstep.samplers.base import OnStep, SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkSampler

Score = Callable[[Tensor, Tensor], Tensor]
"""Log-probabilities [n, V] and drawn symbols [n] -> scores [n]."""

StepFunction = Callable[[Walk, Tensor, Step], Tensor]
"""Walk, states at t [B, L] and step -> states at s [B, L]."""

_LOWEST = -1e30
"""Lowest score of a mask: above -inf, the score of places that are no masks."""


class FillingSampler(WalkSampler):
    """A sampler that fills in masks, and evaluates only samples with masks left.

    The host must know how many samples go on. `masks_left_after` lets it know before the first step, so that no step
    waits for a GPU; a sampler whose draws decide it is asked at each step.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True)

    def run(self, walk: Walk, x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
        return super().run(replace(walk, evaluations=self._evaluations(walk, x, steps)), x, steps, on_step)

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        return for_some(self._unfinished(walk, x, step), self.fill, walk, x, step)

    @abstractmethod
    def fill(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        """`step` for samples that each have a mask (LongTensor [B, L])."""

    def masks_left_after(self, walk: Walk, step: Step, free: Tensor, masks: Tensor) -> Tensor | None:
        """Number of masks of each sample after a step; None if draws decide it.

        Args:
            free: tokens that are not given (LongTensor [B]).
            masks: masks before the step (LongTensor [B]).
        """
        return None

    def _evaluations(self, walk: Walk, x: Tensor, steps: int) -> tuple[int, ...] | None:
        """Number of steps in which each sample has masks; None if only the draws will show it."""
        masks, free = walk.masks(x).sum(1), walk.free(x).sum(1)
        counts = torch.zeros_like(masks)
        for step in self.steps(steps):
            counts += masks > 0
            left = self.masks_left_after(walk, step, free, masks)
            if left is None:
                return None
            masks = left
        return tuple(counts.tolist())

    @staticmethod
    def _unfinished(walk: Walk, x: Tensor, step: Step) -> Tensor | list[int]:
        """Samples that have masks: BoolTensor [B], or their numbers in the batch if the host knows them."""
        if walk.evaluations is None:
            return walk.masks(x).any(1)
        return [number for number, count in enumerate(walk.evaluations) if count > step.index]


def for_some(rows: Tensor | list[int], fn: StepFunction, walk: Walk, x: Tensor, step: Step) -> Tensor:
    """x [B, L] with some samples replaced by `fn` of them; the others are not computed.

    Args:
        rows: numbers of the samples, or BoolTensor [B], which waits for the device once.
    """
    index = rows.nonzero()[:, 0] if isinstance(rows, Tensor) else rows
    if len(index) == 0:
        return x
    if len(index) == len(x):
        return fn(walk, x, step)
    index = index if isinstance(index, Tensor) else send(torch.tensor(index), x.device)
    return x.index_copy(0, index, fn(walk.select(index), x[index], step))


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

"""Filling in masks at the exact times of the process.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.processes.masks import ranks
from fewstep.runtime.streams import Randomness, uniform
from fewstep.samplers.base import SAMPLERS, OnStep
from fewstep.samplers.filling import FillingSampler
from fewstep.samplers.walk import Step, Walk, WalkConfig


@SAMPLERS.register("first_hitting")
class FirstHittingSampler(FillingSampler):
    """Reveals one mask after the other at the exact times of the masked process (arXiv 2409.02908).

    With n masks left at time t, a random one is revealed at t' with 1 - alpha(t') = (1 - alpha(t)) u^(1/n), u uniform,
    and its token is drawn from the prediction at t'. With one evaluation per event the only error is the network's.
    With fewer steps than masks, events are divided evenly over the steps in their order in time, and the events of a
    step share an evaluation at the time of the first one. A sample with n masks takes min(n, steps) evaluations. Times
    come from the process and not from a grid; the states passed to `on_step` have the times of equal steps.
    """

    class Config(WalkConfig):
        type: Literal["first_hitting"] = "first_hitting"

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            if self.grid.type != "linear":
                yield "grid", "the times of first_hitting are those of the process; leave the grid out"

    config: Config

    def run(self, walk: Walk, x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
        masks, generator = walk.masks(x), walk.generator
        levels = hitting_levels(masks.sum(1), masks.shape[1], generator)
        order = ranks(uniform(x.shape, generator, device=x.device).masked_fill(~masks, -1.0))
        walk.memory.update(place=order, times=walk.denoiser.process.schedule.time_of(1 - levels))
        return super().run(walk, x, steps, on_step)

    def fill(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        masks, place, times = walk.masks(x), walk.memory["place"], walk.memory["times"]
        total = walk.free(x).sum(1)
        first, end = total - masks.sum(1), events_until(total, step)
        prediction = walk.unshaped(x, time_of_event(times, first), time_of_event(times, end))
        for row_map in walk.shaping(step):
            prediction = prediction.shaped(row_map)
        return prediction.sample(generator=walk.generator, where=masks & (place < end[:, None]))

    def masks_left_after(self, walk: Walk, step: Step, free: Tensor, masks: Tensor) -> Tensor:
        return (free - events_until(free, step)).clamp_min(0)


def time_of_event(times: Tensor, number: Tensor) -> Tensor:
    """Times of the events with these numbers (LongTensor [B]) out of all [B, L]; 0 past the last one."""
    last = times.shape[1] - 1
    event_times = times.gather(1, number.clamp(max=last)[:, None])[:, 0]
    return event_times.masked_fill(number > last, 0.0)


def hitting_levels(masks: Tensor, length: int, generator: Randomness) -> Tensor:
    """Noise levels 1 - alpha at which the masks of samples are revealed, from 1 down (float64 [B, length]).

    They fall by u^(1/n) with n masks left, so they are the order statistics of n uniform numbers. The first `masks`
    (LongTensor [B]) numbers of a row are events; the others are 0.
    """
    u = uniform((len(masks), length), generator, device=masks.device)
    left = masks[:, None] - torch.arange(length, device=masks.device)
    return torch.where(left > 0, u ** (1 / left.clamp_min(1)), 0.0).cumprod(1)


def events_until(total: Tensor, step: Step) -> Tensor:
    """Number of the `total` events (LongTensor [B]) up to the end of a step: one per step, or equal shares of more."""
    return torch.where(total > step.count, total * (step.index + 1) // step.count, total.clamp(max=step.index + 1))

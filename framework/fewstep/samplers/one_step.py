"""One step from random tokens.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.processes.masks import random_start, time_of_masks
from fewstep.samplers.base import SAMPLERS, OnStep, SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("one_step")
class OneStepSampler(WalkSampler):
    """Draws every token from one prediction, out of random tokens and masks (Di[M]O, arXiv 2503.15457).

    The start is random over the vocabulary except for an exact number of masks. The network predicts all places, masked
    or not, at the time at which the process has that share of masks. Only networks trained on such starts suit it:
    others take the random tokens for data.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(
        masks_only=True,
        exact=False,
        follows_clock=True,  # all tokens at once, in any order
        only_steps=1,
    )

    class Config(WalkConfig):
        type: Literal["one_step"] = "one_step"
        masks: float = Field(0.6, ge=0, le=1, description="share of the start that is masked; other tokens are random")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            if self.grid.type != "linear":
                yield "grid", "one step has no times to choose; leave the grid out"

    config: Config

    def start(self, walk: Walk, count: int, length: int) -> Tensor:
        device, share = walk.denoiser.device, self.config.masks
        return walk.with_prompt(
            random_start(walk.masked, count, length, share, device=device, generator=walk.generator)
        )

    def run(self, walk: Walk, x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
        if not self.traits.takes(steps):
            raise UserError(f"sampler 'one_step' takes 1 step, not {steps}; set the number of steps to 1")
        return super().run(walk, x, steps, on_step)

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        everywhere = replace(walk, cond=replace(walk.cond, everywhere=True))
        t = float(time_of_masks(walk.masked, torch.tensor(self.config.masks, dtype=torch.float64)))
        return everywhere.predict(x, replace(step, t=t)).sample(generator=walk.generator)

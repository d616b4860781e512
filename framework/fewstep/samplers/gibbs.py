"""Ancestral sampling with Gibbs corrections, which need no training.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.predictions.base import Prediction
from fewstep.processes.base import PROCESSES, per_token
from fewstep.processes.masks import ranks
from fewstep.runtime.streams import uniform
from fewstep.samplers.ancestral import AncestralSampler
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.walk import Step, Walk


@SAMPLERS.register("gibbs")
class GibbsSampler(AncestralSampler):
    """After each ancestral step draws some tokens of z_s anew given all others, `corrections` times.

    The network predicts at z_s, and its leave-one-out rows give the exact distribution of a noised token given the
    rest: z_i ~ alpha_s p(x_i | z_s without i) + (1 - alpha_s) / V (arXiv 2605.22765). Drawing one
    token from it preserves the joint distribution at s, errors of tokens that were drawn at once included; several at
    once, from one evaluation, do so nearly if they are far apart. Places are drawn at random, or those go first whose
    token is least likely there, which mends more and preserves less. A mask is drawn anew in the same way; a token that
    is shown keeps its symbol and may be masked, which preserves the distribution too. No correction follows the last
    step. NFE = steps + (steps - 1) x corrections.
    """

    traits = SamplerTraits()

    class Config(AncestralSampler.Config):
        type: Literal["gibbs"] = "gibbs"  # type: ignore[assignment]
        corrections: int = Field(1, ge=0, description="corrections after each step but the last; one evaluation each")
        positions: float = Field(
            0.1, gt=0, description="tokens that a correction draws anew: a share of them below 1, else their number"
        )
        places: Literal["random", "unlikely"] = Field(
            "random", description="which tokens: random ones, or those that are least likely given the others"
        )

        @field_validator("positions")
        @classmethod
        def _share_or_number(cls, positions: float) -> float:
            if positions > 1 and not positions.is_integer():
                raise ValueError("takes a share below 1, or a whole number of tokens")
            return positions

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            if self.places == "unlikely" and PROCESSES.get(recipe.process.type).cls.carry_over:
                yield "places", "masks are neither likely nor unlikely; set places to random"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        x = super().step(walk, x, step)
        if step.last:
            return x
        here = replace(step, t=step.s, s=max(0.0, 2 * step.s - step.t))
        for _ in range(self.config.corrections):
            x = self.correct(walk, walk.hold(x, step.s), here)
        return x

    def correct(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        """The state x at `step.t` with some tokens drawn anew (LongTensor [B, L]); given tokens do not change."""
        process, (now,) = walk.discrete, walk.times(x, step.t)
        rows = process.leave_one_out(walk.predict(x, step), x, now)
        chosen = self.choose(walk, rows, x)
        signal = uniform(x.shape, walk.generator, device=x.device) < per_token(process.schedule.alpha(now))
        noise = process.prior((x.shape[0], x.shape[1]), device=x.device, generator=walk.generator)
        drawn = rows.sample(generator=walk.generator, where=chosen)
        return torch.where(chosen, torch.where(signal, drawn, noise), x)

    def choose(self, walk: Walk, rows: Prediction, x: Tensor) -> Tensor:
        """Places to draw anew, the same number in each sample (BoolTensor [B, L])."""
        size, free = self.config.positions, walk.free(x)
        count = int(size) if size >= 1 else max(1, round(size * x.shape[1]))
        scores = uniform(x.shape, walk.generator, device=x.device)
        if self.config.places == "unlikely":
            scores = rows.nll(x).double()
        return (ranks(scores.masked_fill(~free, -1.0)) < count) & free

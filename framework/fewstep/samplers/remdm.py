"""Remasking: revealed tokens may be masked again.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.predictions.base import Prediction
from fewstep.processes.base import TINY, Process
from fewstep.runtime.streams import uniform
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler

Strategy = Literal["cap", "rescale", "confidence", "loop", "forward_backward", "dfm"]

READ_BY: dict[str, tuple[Strategy, ...]] = {
    "eta": ("cap", "rescale", "confidence", "loop"),
    "t_on": ("loop",),
    "t_off": ("loop",),
    "alpha_on": ("loop",),
    "strength": ("dfm",),
}
"""Setting -> the strategies that read it."""


ETA: dict[Strategy, float] = {"cap": 0.008, "rescale": 0.015, "confidence": 1.0, "loop": 0.02}
"""Usual eta of the strategies that read it: those of the released code (github.com/kuleshov-group/remdm)."""

_ETA_OF_OLD_RECIPES = 0.008
"""Default of every strategy once; recipes saved then have it also where no strategy reads it."""


@SAMPLERS.register("remdm")
class RemdmSampler(WalkSampler):
    """Masks revealed tokens again, so that later steps can change them (ReMDM, arXiv 2503.00307).

    A revealed token is masked with probability sigma. Masks are revealed faster, so that a share alpha_s of the tokens
    is clean at s: P(reveal) = (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t). This is a probability up to
    sigma_max = min(1, (1 - alpha_s) / alpha_t). `strategy` chooses sigma:

    * cap: min(eta, sigma_max); rescale: eta sigma_max.
    * confidence: eta sigma_max times a softmax of -psi over the revealed tokens of a sample, psi the probability with
      which a token was drawn. On average eta sigma_max of them are masked again in a step, so one at most. Masks are
      revealed at the sample's mean sigma, so their number follows the schedule.
    * loop: 0 while alpha rises to alpha_on (until t_on), min(eta, sigma_max) while it stays there (until t_off), then 0
      again. The network is conditioned on the time at which its schedule has this alpha.
    * forward_backward: (alpha_s - alpha_t) / alpha_t, a step of the forward process.
    * dfm: strength (t (1 - t))^(1/4) times that, the corrector of discrete flow matching (arXiv 2407.15595).

    Masks revealed in the same step do not see each other. With the last two strategies a shorter step masks fewer
    tokens, and the distribution becomes exact with many steps. With the others a step of any length masks the same
    share, which leaves an error of the order of eta. The choice by confidence depends on the drawn tokens, so its
    distribution is not exact. Given tokens are neither masked nor counted. The last step reveals all and masks nothing.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True)

    class Config(WalkConfig):
        type: Literal["remdm"] = "remdm"
        strategy: Strategy = Field("cap", description="rule for the probability that a revealed token is masked again")
        eta: float | None = Field(
            None,
            ge=0,
            le=1,
            description="probability of remasking, or its factor; null: 0.008 for cap, 0.015 for rescale, 1 for "
            "confidence, 0.02 for loop",
        )
        t_on: float = Field(0.55, gt=0, lt=1, description="time at which the loop begins")
        t_off: float = Field(
            0.05, gt=0, lt=1, validate_default=True, description="time at which the loop ends; below t_on"
        )
        alpha_on: float = Field(0.9, gt=0, lt=1, description="share of clean tokens in the loop")
        strength: float = Field(10.0, ge=0, description="strength of the corrector of discrete flow matching")

        @field_validator("t_off")
        @classmethod
        def _ends_after_it_begins(cls, t_off: float, info: ValidationInfo) -> float:
            if t_off >= info.data.get("t_on", 1.0):
                raise ValueError(f"the loop ends at t_off, which must lie below t_on ({info.data['t_on']})")
            return t_off

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            for key, readers in READ_BY.items():
                value = getattr(self, key)
                changed = value != type(self).model_fields[key].default
                if key == "eta" and value == _ETA_OF_OLD_RECIPES:
                    continue
                if changed and self.strategy not in readers:
                    yield key, f"strategy '{self.strategy}' does not read it; {', '.join(readers)} would"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        process, c, t = walk.denoiser.process, self.config, step.t
        if c.strategy == "loop":
            step = replace(step, t=self.loop_time(process, step.t), s=self.loop_time(process, step.s))
        prediction = walk.predict(x, step)
        if step.last:
            return prediction.sample(generator=walk.generator)
        alpha_t, alpha_s = (process.schedule.alpha(time)[:, None] for time in walk.times(x, step.t, step.s))
        clean = ~prediction.where & walk.free(x)
        sigma = self.sigma(t, alpha_t, alpha_s).expand(x.shape)
        if c.strategy == "confidence":
            sigma = by_confidence(sigma, walk.memory.get("drawn_with", torch.zeros_like(sigma)), clean)
        u = uniform(x.shape, walk.generator, device=x.device)
        revealed = prediction.where & (u < reveal_chance(sigma, alpha_t, alpha_s))
        tokens = prediction.sample(generator=walk.generator, where=revealed)
        if c.strategy == "confidence":
            remember(walk, prediction, tokens, revealed)
        noise = process.prior((x.shape[0], x.shape[1]), device=x.device, generator=walk.generator)
        return torch.where(clean & (u < sigma), noise, tokens)

    def sigma(self, t: float, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Probability of remasking, in the shape of alpha_t; the same for all tokens, before weights by confidence."""
        c, most = self.config, largest_sigma(alpha_t, alpha_s)
        eta = ETA.get(c.strategy, 0.0) if c.eta is None else c.eta
        forward = (alpha_s - alpha_t) / alpha_t.clamp_min(TINY)
        match c.strategy:
            case "cap":
                return most.clamp(max=eta)
            case "rescale" | "confidence":
                return eta * most
            case "loop":
                return most.clamp(max=eta if c.t_off < t <= c.t_on else 0.0)
            case "forward_backward":
                return torch.minimum(forward, most)
            case _:
                return torch.minimum(c.strength * (t * (1 - t)) ** 0.25 * forward, most)

    def loop_time(self, process: Process, t: float) -> float:
        """Time of the schedule at time t of the loop: it falls from 1 to that of alpha_on, stays there, falls to 0."""
        c = self.config
        hold = float(process.schedule.time_of(torch.tensor(c.alpha_on, dtype=torch.float64)))
        if t > c.t_on:
            return hold + (1 - hold) * (t - c.t_on) / (1 - c.t_on)
        return hold * min(1.0, t / c.t_off)


def largest_sigma(alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """sigma_max = min(1, (1 - alpha_s) / alpha_t); beyond it reveals could not make up for the remasked tokens."""
    return ((1 - alpha_s) / alpha_t.clamp_min(TINY)).clamp(0, 1)


def reveal_chance(sigma: Tensor, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
    """(alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), in [0, 1]."""
    return ((alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp_min(TINY)).clamp(0, 1)


def by_confidence(sigma: Tensor, drawn_with: Tensor, clean: Tensor) -> Tensor:
    """sigma softmax(-drawn_with) over the clean tokens of a sample; other tokens get the mean of these.

    Args:
        sigma: float64 [B, L].
        drawn_with: probabilities with which tokens were drawn, float64 [B, L].
        clean: the tokens that count (BoolTensor [B, L]).
    """
    weights = (-drawn_with).exp() * clean
    total, count = weights.sum(1, keepdim=True), clean.sum(1, keepdim=True)
    return sigma * torch.where(clean, weights / total.clamp_min(TINY), 1 / count.clamp_min(1))


def remember(walk: Walk, prediction: Prediction, x: Tensor, revealed: Tensor) -> None:
    """Store the probabilities of the tokens of x that are `revealed` (both [B, L]) in the walk's memory."""
    (probs,) = prediction.scan(lambda log_p, ids: (log_p.double().gather(1, ids[:, None])[:, 0].exp(),), revealed, x)
    before = walk.memory.get("drawn_with", torch.zeros(x.shape, dtype=torch.float64, device=x.device))
    walk.memory["drawn_with"] = before.masked_scatter(revealed, probs)

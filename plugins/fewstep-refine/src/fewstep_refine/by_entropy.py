"""The sampler `refine_entropy`.

Shapes: B batch, L tokens, n samples that go on.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep import SAMPLERS, Step, Walk, WalkConfig, WalkSampler
from fewstep.samplers.base import OnStep, SamplerTraits, StepState
from fewstep.samplers.confidence import masks_left
from fewstep.samplers.entropy_bounded import within_budget
from fewstep_refine.proposals import Proposals


@SAMPLERS.register("refine_entropy")
class RefineByEntropy(WalkSampler):
    """Keeps at each step the tokens of lowest entropy within a budget, and puts new noise in the place of all others.

    The rule is EB-sampler's (arXiv 2505.24857): the largest set with sum H - max H <= budget. The uniform process has
    no masks, so every token is drawn anew at each step, as diffusers' `EntropyBoundScheduler` does. A sample of which
    all tokens are kept is finished, and NFE is a mean.

    Each step keeps at least the floor(f alpha(s)) tokens of `refine_confidence`, of f that are not given; the budget
    makes it faster. Without that least number a small budget gets nowhere: a network cannot see which few of many
    tokens were kept, so their entropy is as high as that of noise.

    The network is asked at the time whose noise the state has, 1 - alpha(t) = share of tokens that are noise, each
    sample at its own.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(exact=False)

    class Config(WalkConfig):
        type: Literal["refine_entropy"] = "refine_entropy"
        budget: float = Field(0.1, ge=0, description="nats that a step may lose by independent draws")

    config: Config

    def run(self, walk: Walk, x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
        walk.memory["kept"] = (walk.free(x).sum(1) == 0).double()
        for step in self.steps(steps):
            x = self.step(walk, x, step)
            if on_step is not None:
                on_step(StepState(step.index, step.t, step.s, walk.to_ids(x)))
        return walk.to_ids(x)

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        index = (walk.memory["kept"] < 1).nonzero()[:, 0]  # draws decide who goes on, so the host must ask
        if len(index) == 0:
            return x
        states, kept = self._refined(walk.select(index), x[index], step)
        walk.memory["kept"] = walk.memory["kept"].index_copy(0, index, kept)
        return x.index_copy(0, index, states)

    def _refined(self, walk: Walk, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Next states of samples that go on (LongTensor [n, L]), and the shares of tokens that they keep (float64)."""
        schedule, free = walk.discrete.schedule, walk.free(x)
        t, (then,) = schedule.time_of(walk.memory["kept"]), walk.times(x, step.s)
        proposals = Proposals.draw(walk, x, t, torch.minimum(t, then), step, "entropy")
        entropies = (-proposals.scores).masked_fill(~proposals.drawn, torch.inf)
        total, known = free.sum(1), (free & ~proposals.drawn).sum(1)
        least = total - known if step.last else total - masks_left(total, schedule, then) - known
        count = torch.maximum(within_budget(entropies, self.config.budget), least)
        kept = (known + count) / total.double()
        states = proposals.keep((~proposals.drawn).sum(1) + count, walk)
        prompt = walk.cond.prompt
        if prompt is not None:
            now = walk.at_tokens(schedule.time_of(kept))
            states = walk.denoiser.process.hold(states, prompt, now, generator=walk.generator)
        return states, kept

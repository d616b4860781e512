"""Denoising that learns from the noisiest half of a batch alone."""

from __future__ import annotations

from typing import Literal

from fewstep import OBJECTIVES, Batch, ComponentConfig, LossOutput, Objective, Phase, StepContext


@OBJECTIVES.register("noisy_half")
class NoisyHalf(Objective):
    """Cross entropy of the clean tokens, where most of them are hidden."""

    class Config(ComponentConfig):
        type: Literal["noisy_half"] = "noisy_half"

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        t = 0.5 + 0.5 * ctx.sample_time(len(batch.x0))
        noised = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"])
        nll = ctx.roles["student"](noised.x_t, t).nll(batch.x0)
        return LossOutput(ctx.mean(nll), {"hardest": nll.detach().max()})

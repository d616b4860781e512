"""Denoising: the training of teachers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, StepContext
from fewstep.objectives.matching.losses import matching_loss
from fewstep.objectives.parts.noised_data import NoisedDataConfig, noised_data
from fewstep.objectives.parts.weighting import loss_weight
from fewstep.processes.base import PROCESSES, discrete, per_token


@OBJECTIVES.register("denoising")
class Denoising(Objective):
    """Weighted cross entropy of the clean tokens given noised ones; trains teachers of every process.

    L = w(t) CE(x | x_theta(z_t)) (arXiv 2603.20155, section 2). Its optimum is E_q[x | z_t], also for the uniform
    process. `loss: posterior` is the traditional alternative (D3PM, multinomial diffusion; appendix D), with a
    different optimum for the uniform process. `weighting: elbo` is -alpha'/(1 - alpha); for the masked process it makes
    the cross entropy a bound on the negative log-likelihood (MDLM, eq. 10). The loss is a mean over all L tokens of the
    batch.
    """

    spaces = frozenset({"discrete", "continuous"})
    likelihood = True

    class Config(NoisedDataConfig):
        type: Literal["denoising"] = "denoising"
        loss: Literal["cross_entropy", "posterior"] = Field(
            "cross_entropy", description="of x, or of the posterior of a short step (traditional uniform diffusion)"
        )
        posterior_step: float = Field(0.01, gt=0, lt=1, description="length of that step")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            process = recipe.process.type
            if PROCESSES.get(process).cls.space == "discrete":
                return
            if self.loss == "posterior":
                yield "loss", f"posteriors are of processes of ids, and {process} has none; set loss to cross_entropy"
            if self.weighting == "elbo":
                yield "weighting", f"no likelihood bound is known for the process {process}; set weighting to constant"

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t, corrupted, cond = noised_data(c, batch, ctx)
        prediction = ctx.roles["student"](corrupted.x_t, t, cond=cond, generator=ctx.generators["noise"])
        nll = prediction.nll(batch.x0)
        value: Tensor = nll
        if c.loss == "posterior":
            form = matching_loss("posterior", discrete(ctx.process), corrupted.x_t, t, c.posterior_step)
            value = form.fit(batch.x0, prediction)
        loss = ctx.mean(per_token(loss_weight(c, t, ctx.process.schedule)) * value)
        noised = corrupted.noised.sum().clamp_min(1)
        return LossOutput(loss, {"nll_noised": (nll.detach() * corrupted.noised).sum() / noised})

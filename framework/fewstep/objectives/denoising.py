"""Denoising: the training of teachers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, StepContext
from fewstep.objectives.matching.losses import matching_loss
from fewstep.objectives.parts.bound import bound
from fewstep.objectives.parts.noised_data import NoisedDataConfig, noised_data
from fewstep.objectives.parts.weighting import loss_weight
from fewstep.predictions.evidence import Output
from fewstep.processes.base import PROCESSES, discrete, per_token
from fewstep.processes.masked import MaskedProcess
from fewstep.processes.uniform import UniformProcess


@OBJECTIVES.register("denoising")
class Denoising(Objective):
    """Weighted cross entropy of the clean tokens given noised ones; trains teachers of every process.

    L = w(t) CE(x | x_theta(z_t)) (arXiv 2603.20155, section 2). Its optimum is E_q[x | z_t], also for the uniform
    process. `loss: posterior` (D3PM, multinomial diffusion; appendix D) and `loss: bound` (UDLM, arXiv 2412.10193; Duo,
    arXiv 2506.10892) are the traditional alternatives. They compare q(z_s | z_t, x) with the x of the prediction
    plugged in, and q(z_s | z_t, x) = q(z_t | z_s) q(z_s | x) / q(z_t | x): what is plugged in must not know z_t at its
    place, so for the uniform process the optimum is p(x_i | z_t without i). The recipe's `output` is therefore
    `leave_one_out` with these losses, unless it says otherwise. `weighting: elbo` is -alpha'/(1 - alpha); for the
    masked process it makes the cross entropy a bound on the negative log-likelihood (MDLM, eq. 10). The loss is a mean
    over all L tokens of the batch.
    """

    spaces = frozenset({"discrete", "continuous"})
    likelihood = True

    class Config(NoisedDataConfig):
        type: Literal["denoising"] = "denoising"
        loss: Literal["cross_entropy", "posterior", "bound"] = Field(
            "cross_entropy",
            description="of x, or of the posterior of a short step (traditional uniform diffusion), or the bound on "
            "the negative log-likelihood in continuous time (UDLM, Duo)",
        )
        posterior_step: float = Field(0.01, gt=0, lt=1, description="length of that step")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            process = recipe.process.type
            if self.loss == "bound" and not issubclass(PROCESSES.get(process).cls, MaskedProcess | UniformProcess):
                yield "loss", f"no likelihood bound is known for the process {process}; set loss to cross_entropy"
            if self.loss == "bound" and (self.weighting != "constant" or self.weight_schedule is not None):
                key = "weighting" if self.weight_schedule is None else "weight_schedule"
                yield key, "the bound has a weight of its own; remove this key"
            if PROCESSES.get(process).cls.space == "discrete":
                return
            if self.loss == "posterior":
                yield "loss", f"posteriors are of processes of ids, and {process} has none; set loss to cross_entropy"
            if self.weighting == "elbo":
                yield "weighting", f"no likelihood bound is known for the process {process}; set weighting to constant"

    config: Config

    @classmethod
    def output(cls, config: ComponentConfig) -> Output:
        return "x_mean" if getattr(config, "loss", "cross_entropy") == "cross_entropy" else "leave_one_out"

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t, corrupted, cond = noised_data(c, batch, ctx)
        prediction = ctx.roles["student"](corrupted.x_t, t, cond=cond, generator=ctx.generators["noise"])
        value = nll = prediction.nll(batch.x0)
        if c.loss == "posterior":
            process = discrete(ctx.process)
            form = matching_loss("posterior", process, corrupted.x_t, t, c.posterior_step)
            value = form.fit(batch.x0, process.leave_one_out(prediction, corrupted.x_t, t))
        elif c.loss == "bound":
            value = bound(discrete(ctx.process), prediction, batch.x0, corrupted.x_t, t)
        loss = ctx.mean(per_token(loss_weight(c, t, ctx.process.schedule)) * value)
        metrics = {}
        if c.loss == "cross_entropy" or ctx.diagnose:  # of the other losses it takes a pass of its own
            metrics["nll_noised"] = batch.mean(nll.detach(), corrupted.noised)
        return LossOutput(loss, metrics)

"""Gumbel distillation (arXiv 2603.22216).

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.core.sizes import too_large
from fewstep.data.base import DATASETS
from fewstep.likelihood.autoregressive import check_autoregressive, predict_next
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.matching.diagnostics import mean_entropy
from fewstep.objectives.parts.weighting import WeightingConfig, loss_weight
from fewstep.processes.base import PROCESSES, per_token
from fewstep.processes.masked import MaskedProcess
from fewstep_gumbel.condition import with_noise
from fewstep_gumbel.network import GumbelDenoiser
from fewstep_gumbel.noise import posterior_gumbel


@OBJECTIVES.register("gumbel")
class GumbelDistillation(Objective):
    """A student of masks sees the noise by which an autoregressive teacher would have drawn the text.

    A teacher that draws x_i = argmax_v(log p(v | x_<i) + G_i(v)) is a function from noise G to text. Given a text of
    the data, G is drawn from its posterior. The student gets z_t, and the noise of the masked places, and learns the
    text by cross entropy: L = w(t) CE(x | x_theta(z_t, G)), a mean over all tokens. With an exact teacher nothing is
    left to chance, so the least loss is 0, and one step of a student that has it draws the teacher's distribution.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", latents="refuse"),
        "student": RoleSpec(network=GumbelDenoiser),
    }
    sampler: ClassVar = "held_noise"

    class Config(WeightingConfig):
        type: Literal["gumbel"] = "gumbel"
        full: float = Field(
            0.25, ge=0, lt=1, description="share of samples of which no token is shown, as in a sampler's first step"
        )
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest time drawn")
        max_gigabytes: float = Field(
            1.0, gt=0, description="limit on the noise of a batch, 4 B L V bytes; a step has it three or four times"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not issubclass(PROCESSES.get(recipe.process.type).cls, MaskedProcess):
                yield "type", f"the noise takes the place of masks, and the {recipe.process.type} process has none"
            if recipe.label_input is not None:
                yield "type", "teachers are asked without labels; remove label_input"
            spec = DATASETS.get(recipe.data.type).cls.outline(recipe.data)
            if spec is None:  # `loss` refuses what is too large once the data are read
                return
            count = recipe.train.batch_size // recipe.train.accumulate
            if reason := self.too_large(count, spec.length, spec.vocab_size):
                yield "max_gigabytes", f"{reason}; raise train.accumulate, or this limit if the device has the memory"

        def too_large(self, count: int, length: int, vocab_size: int) -> str | None:
            """Why noise of this size is refused, if it is."""
            return too_large(count, length, vocab_size, self.max_gigabytes, label="samples of noise")

    config: Config

    def setup(self, ctx: StepContext) -> None:
        check_autoregressive(ctx.denoiser("teacher"), "the teacher")

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c, (count, length) = self.config, batch.x0.shape
        if reason := c.too_large(count, length, ctx.process.vocab_size):
            raise UserError(f"objective: {reason}; raise train.accumulate, or objective.max_gigabytes")
        t = self.times(count, ctx)
        z_t = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
        noise = self.noise(batch.x0, ctx)
        student = ctx.denoiser("student")(z_t, t, cond=with_noise(batch.cond, noise))
        nll = student.nll(batch.x0)
        loss = ctx.mean(per_token(loss_weight(c, t, ctx.process.schedule)) * nll)
        metrics: dict[str, Any] = {"nll_masked": (batch.counted(nll.detach()).sum(), batch.tokens(student.where))}
        if ctx.diagnose:
            metrics["student_entropy"] = mean_entropy(student)
        return LossOutput(loss, metrics)

    def times(self, count: int, ctx: StepContext) -> Tensor:
        """Times [B]: 1 for a share `full` of the batch, else ~ U(min_time, 1), spread evenly over the batch."""
        c = self.config
        level = (ctx.sample_time(count, antithetic=True) / (1 - c.full)).clamp_max(1.0)
        return c.min_time + (1 - c.min_time) * level

    @torch.no_grad()
    def noise(self, x0: Tensor, ctx: StepContext) -> Tensor:
        """Noise by which the teacher draws the ids x0 [B, L]: float32 [B, L, V]."""
        rows = predict_next(ctx.denoiser("teacher"), x0).log_probs()
        return posterior_gumbel(rows.view(*x0.shape, -1), x0, generator=ctx.generators["sample"])

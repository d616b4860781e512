"""Di[M]O: distilling masked diffusion models into one step (arXiv 2503.15457).

Shapes: B batch, L tokens, V vocabulary, n rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.guidance import guided
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.matching.diagnostics import mean_entropy
from fewstep.objectives.parts.divergence import divergence
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.draws import expectation
from fewstep.processes.base import PROCESSES
from fewstep.processes.masked import MaskedProcess
from fewstep.processes.masks import random_start, time_of_masks, with_masks
from fewstep.samplers.one_step import OneStepSampler

_LOWEST = -69.0
"""Log-probability (of about 1e-30) that replaces that of probability 0 in a ratio."""


@dataclass(frozen=True)
class Generated:
    """The student's `prediction` of all tokens, its draw `x`, and that draw masked again, `z_t` (ids [B, L]), at times
    `t` [B]."""

    prediction: Prediction
    x: Tensor
    z_t: Tensor
    t: Tensor


@OBJECTIVES.register("dimo")
class DiMO(Objective):
    """A one-step generator on whose samples, masked again, teacher and auxiliary agree.

    The student turns random tokens, a share `masks` of them masked, into all tokens at once. Its draw is masked again.
    The auxiliary p_A learns to denoise such draws, and is compared with the teacher p_T at the masks. The gradient of
    their divergence with respect to the auxiliary's logits serves as the gradient of the student's logits at the same
    places (arXiv 2503.15457). Of the data, only the conditions are used.

    The student's loss is the sum over tokens, mean over samples, as in the released code; the auxiliary's is the mean
    over masked tokens.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher", adapters=True),
        "auxiliary": RoleSpec(starts_from="teacher"),
    }
    sampler: ClassVar = "one_step"

    class Config(ComponentConfig):
        type: Literal["dimo"] = "dimo"
        masks: float = Field(0.6, ge=0, le=1, description="share of the start that is masked; the sampler must agree")
        jeffreys: float = Field(
            0.0, ge=-1, le=1, description="b of (1 - b) forward KL + b reverse KL; below 0 goes beyond the forward one"
        )
        label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of the auxiliary's target that is uniform")
        teacher_guidance: float = Field(
            1.0, ge=0, description="weight of classifier-free guidance of the teacher that is distilled; 1 for none"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not issubclass(PROCESSES.get(recipe.process.type).cls, MaskedProcess):
                yield (
                    "type",
                    f"samples are compared where they are masked, and the {recipe.process.type} process has none",
                )
            sampler = recipe.sampler
            if isinstance(sampler, OneStepSampler.Config) and sampler.masks != self.masks:
                yield (
                    "masks",
                    f"the student would be trained on {self.masks:g} masks and sampled from {sampler.masks:g}; "
                    f"set sampler.masks to {self.masks:g}",
                )
            if self.teacher_guidance != 1 and recipe.label_input is None:
                yield "teacher_guidance", "a teacher is guided by labels; add `label_input: {}`"

    config: Config

    def usual_steps(self) -> int | None:
        return 1

    def phases(self) -> Sequence[Phase]:
        return [Phase("student", ("student",)), Phase("auxiliary", ("auxiliary",))]

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        generated = self.generate(batch, ctx, grad="student" in phase.train)
        of_phase = self._student_loss if "student" in phase.train else self._auxiliary_loss
        return of_phase(generated, batch, ctx)

    def generate(self, batch: Batch, ctx: StepContext, *, grad: bool) -> Generated:
        """One step of the student from random tokens, and its draw masked again."""
        process, noise = ctx.process, ctx.generators["noise"]
        assert isinstance(process, MaskedProcess)
        count, length = batch.x0.shape
        start = random_start(process, count, length, self.config.masks, device=ctx.device, generator=noise)
        t = time_of_masks(process, torch.full((count,), self.config.masks, device=ctx.device))
        with torch.set_grad_enabled(grad):
            cond = replace(batch.cond, everywhere=True)
            prediction = ctx.roles["student"](start, t, torch.zeros_like(t), cond=cond, generator=noise)
        x = prediction.sample(generator=ctx.generators["sample"])
        masks = mask_counts(ctx.sample_time(count), length)
        z_t = with_masks(process, x, masks, generator=noise)
        return Generated(prediction, x, z_t, time_of_masks(process, masks / length))

    def _student_loss(self, generated: Generated, batch: Batch, ctx: StepContext) -> LossOutput:
        """sum_v g_v log p_v at the masks of z_t. Its gradient with respect to the logits is g, since g sums to 0."""
        c = self.config
        with torch.no_grad():
            teacher = guided(
                ctx.denoiser("teacher"),
                generated.z_t,
                generated.t,
                cond=batch.cond,
                weight=c.teacher_guidance,
                generator=ctx.generators["noise"],
            )
            auxiliary = ctx.roles["auxiliary"](generated.z_t, generated.t, cond=batch.cond)

        def value(p: Tensor, a: Tensor, q: Tensor) -> Tensor:
            return (jeffreys_gradient(a, q, c.jeffreys).detach() * p.masked_fill(p.isneginf(), 0.0)).sum(-1)

        loss = ctx.sum(rowwise(value, [generated.prediction, auxiliary, teacher], where=teacher.where)) / batch.size
        metrics: dict[str, Any] = {"student_loss": loss.detach()}
        if ctx.diagnose:
            gap = divergence("total_variation", auxiliary, teacher, teacher.where)
            metrics["student_entropy"] = mean_entropy(generated.prediction)
            metrics["total_variation"] = (gap.sum(), teacher.where.sum())
        return LossOutput(loss, metrics)

    def _auxiliary_loss(self, generated: Generated, batch: Batch, ctx: StepContext) -> LossOutput:
        """Cross entropy of the student's draw at the masks of z_t, smoothed: mean over masks."""
        auxiliary = ctx.roles["auxiliary"](generated.z_t, generated.t, cond=batch.cond)
        share = self.config.label_smoothing

        def value(a: Tensor, x: Tensor) -> Tensor:
            return -(1 - share) * a.gather(1, x[:, None])[:, 0] - share * a.mean(-1)

        values = rowwise(value, [auxiliary], [generated.x], where=auxiliary.where)
        loss = ctx.mean(values, auxiliary.where, batch=ctx.as_batch(generated.x))
        return LossOutput(loss, {"auxiliary_loss": loss.detach()})


def jeffreys_gradient(a: Tensor, q: Tensor, b: float) -> Tensor:
    """Gradient of (1 - b) KL(p_T || p_A) + b KL(p_A || p_T) with respect to the logits of p_A, [n, V]; rows sum to 0.

    That is p_A - p_T for the forward KL, and p_A (log p_A - log p_T - KL(p_A || p_T)) for the reverse one.

    Args:
        a: log p_A, the auxiliary's, [n, V].
        q: log p_T, the teacher's, [n, V].
    """
    forward = a.exp() - q.exp()
    if b == 0:
        return forward
    ratio = a.clamp_min(_LOWEST) - q.clamp_min(_LOWEST)
    reverse = a.exp() * (ratio - expectation(a, ratio)[:, None])
    return (1 - b) * forward + b * reverse


def mask_counts(levels: Tensor, length: int) -> Tensor:
    """Number of the L tokens that are masked again (LongTensor [B]), at least one.

    The share is arccos(u) / (pi / 2) for u ~ U(0, 1), MaskGIT's cosine.
    """
    return (levels.acos() / (pi / 2) * length).round().long().clamp(1, length)

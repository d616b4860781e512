"""Knowledge distillation of a teacher that is sharpened by temperature and top-p.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.predictions.shaping import shape


@OBJECTIVES.register("soft_targets")
class SoftTargets(Objective):
    """A student takes over its teacher's temperature and top-p, and is then sampled with neither.

    L = KL(q || p) at z_t from noised data: q the teacher's probabilities after temperature and top-p, p the
    student's. Its optimum is p = q at every z_t, so that a plain draw of the student is a shaped draw of the teacher.
    The entropy of q is the same for all students, so the gradient is that of the cross entropy.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher"),
    }

    class Config(ComponentConfig):
        type: Literal["soft_targets"] = "soft_targets"
        temperature: float = Field(1.0, gt=0, description="of the teacher; below 1 sharpens")
        top_p: float = Field(0.9, gt=0, le=1, description="mass of the teacher's likeliest symbols that are kept")
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest time drawn")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.temperature == 1 and self.top_p == 1:
                yield "", "the student starts as the teacher, so without temperature or top_p there is nothing to learn"

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t = c.min_time + (1 - c.min_time) * ctx.sample_time(batch.size, antithetic=True)
        z_t = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
        with torch.no_grad():
            teacher = shape(ctx.roles["teacher"](z_t, t), temperature_=c.temperature, top_p_=c.top_p)
            entropy = teacher.entropy()
        student = ctx.roles["student"](z_t, t)

        kl = student.cross_entropy(teacher) - entropy  # [B, L], zero where the token is known
        predicted = student.where.sum().clamp_min(1)
        return LossOutput(ctx.mean(kl), {"kl_predicted": kl.detach().sum() / predicted})

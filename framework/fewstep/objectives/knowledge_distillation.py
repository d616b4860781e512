"""Knowledge distillation: a network of any backbone learns what a teacher predicts."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.parts.noised_data import NoisedDataConfig, noised_data
from fewstep.objectives.parts.weighting import loss_weight
from fewstep.processes.base import per_token


@OBJECTIVES.register("knowledge_distillation")
class KnowledgeDistillation(Objective):
    """A student of any backbone learns its teacher's predictions at every time, for the same number of steps.

    L = w(t) [(1 - d) CE(teacher(z_t), student(z_t)) + d CE(x, student(z_t))] (Hinton et al., arXiv 1503.02531, at
    temperature 1), with z_t from noised real data. The teacher's probabilities hold more information than a drawn
    token. A few-step objective can continue from this student with `start_from`.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(),
    }
    likelihood = True

    class Config(NoisedDataConfig):
        type: Literal["knowledge_distillation"] = "knowledge_distillation"
        data_weight: float = Field(0.0, ge=0, le=1, description="share d of the cross entropy of the data")

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t, corrupted, cond = noised_data(c, batch, ctx)
        with torch.no_grad():
            teacher = ctx.roles["teacher"](corrupted.x_t, t, cond=cond, generator=ctx.generators["noise"])
        student = ctx.roles["student"](corrupted.x_t, t, cond=cond)
        cross_entropy = student.cross_entropy(teacher)
        value = (1 - c.data_weight) * cross_entropy
        if c.data_weight:
            value = value + c.data_weight * student.nll(batch.x0)
        loss = ctx.mean(per_token(loss_weight(c, t, ctx.process.schedule)) * value)
        metrics: dict[str, Any] = {}
        if ctx.diagnose:
            divergence = batch.counted(cross_entropy.detach()).sum() - batch.counted(teacher.entropy()).sum()
            metrics["kl_to_teacher"] = (divergence, batch.tokens(student.where))
        return LossOutput(loss, metrics)

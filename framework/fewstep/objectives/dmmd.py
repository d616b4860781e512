"""D-MMD: Discrete Moment Matching Distillation (arXiv 2603.20155, Algorithm 1).

Shapes: B batch, L tokens, V vocabulary. z_t and z_s are noised ids [B, L], s < t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.component import ComponentConfig
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.student_step import student_step, weight_at
from fewstep.prediction import Prediction, expectation, rowwise


@OBJECTIVES.register("dmmd")
class DMMD(Objective):
    """Discrete moment matching: a few-step student whose samples teacher and auxiliary cannot tell apart.

    From real data noised to t the student takes one sampling step to s. The auxiliary learns to denoise what
    the student makes, the student moves its probabilities to where the teacher's log-probabilities exceed the
    auxiliary's, and they agree when the student draws the teacher's law (arXiv 2603.20155, eq. 9-12).
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher", noise_input=True),
        "auxiliary": RoleSpec(starts_from="teacher"),
    }

    class Config(ComponentConfig):
        type: Literal["dmmd"] = "dmmd"
        k: int = Field(8, ge=1, description="sampling steps that the student is trained for; steps span up to 1/k")
        aux_target: Literal["auto", "soft", "hard"] = Field(
            "auto",
            description="what the auxiliary learns: drawn tokens (hard) or probabilities (soft); auto: soft if masked",
        )
        updates: Literal["alternating", "simultaneous"] = Field(
            "alternating",
            description="one role a step (Algorithm 1), or both from the same draws, which is cheaper",
        )
        aux_steps: int = Field(1, ge=1, description="auxiliary updates after each update of the student")
        regulariser: float = Field(
            1.0, ge=0, description="weight of the term that keeps the auxiliary near the teacher"
        )
        weighting: Literal["constant", "elbo"] = Field("constant", description="w(s)")
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest s drawn")

    @classmethod
    def check_recipe(cls, config: Any, recipe: Any) -> Iterator[tuple[str, str]]:
        from fewstep.registries import registry

        if config.updates == "simultaneous" and config.aux_steps > 1:
            yield "aux_steps", "simultaneous updates are one to one; set aux_steps to 1, or updates to alternating"
        process = registry("processes").get(recipe.process.type).cls
        if config.aux_target == "soft" and not process.carry_over:
            yield (
                "aux_target",
                f"soft targets are biased for the {recipe.process.type} process, whose z_s depends on the drawn "
                "tokens; use 'hard' or 'auto'",
            )

    @classmethod
    def usual_steps(cls, config: Any) -> int | None:
        return int(config.k)

    def phases(self) -> Sequence[Phase]:
        if self.config.updates == "simultaneous":
            return [Phase("both", ("student", "auxiliary"))]
        return [Phase("student", ("student",)), Phase("auxiliary", ("auxiliary",), repeat=self.config.aux_steps)]

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        # 1. From noised real data, one sampling step of the student: soft probabilities, a hard draw x, and z_s.
        c = self.config
        step = student_step(batch.x0, ctx, k=c.k, min_time=c.min_time, grad="student" in phase.train)

        # 2. What teacher and auxiliary make of z_s.
        with torch.no_grad():
            teacher = ctx.roles["teacher"](step.z_s, step.s)
        with torch.set_grad_enabled("auxiliary" in phase.train):
            auxiliary = ctx.roles["auxiliary"](step.z_s, step.s)

        # 3. The losses of the roles whose turn it is.
        weight = weight_at(step.s, ctx, c.weighting)
        parts = []
        if "student" in phase.train:
            parts.append(self._student_loss(step.prediction, teacher, auxiliary, weight))
        if "auxiliary" in phase.train:
            parts.append(self._auxiliary_loss(step.x, step.prediction, teacher, auxiliary, weight, ctx))
        metrics = {name: value for part in parts for name, value in part.metrics.items()}
        return LossOutput(torch.stack([part.loss for part in parts]).sum(), metrics)

    def _student_loss(
        self, student: Prediction, teacher: Prediction, auxiliary: Prediction, weight: Tensor
    ) -> LossOutput:
        """L_GEN = sum_c p_c (log aux_c - log teacher_c), p the student's soft probabilities (eq. 11)."""
        value = rowwise(
            lambda p, a, q: expectation(p, (a - q).detach()), [student, auxiliary, teacher], where=teacher.where
        )
        loss = (weight * value).mean()
        with torch.no_grad():
            entropy = student.entropy().sum() / student.where.sum().clamp_min(1)
        return LossOutput(loss, {"student_loss": loss.detach(), "student_entropy": entropy})

    def _auxiliary_loss(
        self,
        x: Tensor,
        student: Prediction,
        teacher: Prediction,
        auxiliary: Prediction,
        weight: Tensor,
        ctx: StepContext,
    ) -> LossOutput:
        """L_AUX = CE(x | aux) + r CE(teacher | aux), x hard or the student's probabilities (eq. 12)."""
        soft = self.config.aux_target == "soft" or (self.config.aux_target == "auto" and ctx.process.carry_over)
        fit = auxiliary.cross_entropy(student.shaped(Tensor.detach)) if soft else auxiliary.nll(x)
        near = auxiliary.cross_entropy(teacher) if self.config.regulariser else torch.zeros_like(fit)
        loss = (weight * (fit + self.config.regulariser * near)).mean()
        with torch.no_grad():
            gap = rowwise(lambda a, q: (a - q).abs().mean(1), [auxiliary, teacher], where=teacher.where)
            gap = gap.sum() / teacher.where.sum().clamp_min(1)
        return LossOutput(loss, {"auxiliary_loss": loss.detach(), "log_ratio": gap})

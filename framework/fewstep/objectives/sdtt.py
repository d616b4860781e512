"""SDTT: self-distillation through time (arXiv 2410.21035).

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.parts.divergence import Divergence, divergence
from fewstep.objectives.parts.rounds import RoundsConfig, refresh_teacher
from fewstep.predictions.base import Prediction
from fewstep.processes.base import PROCESSES, discrete, find_masks


@OBJECTIVES.register("sdtt")
class SDTT(Objective):
    """The student learns to predict in one step what its teacher predicts over several; each round doubles the step.

    From real data noised to t the teacher takes `teacher_steps` ancestral steps. The target of a token is the teacher's
    prediction at the step that revealed it, or at the last step if it stays masked (arXiv 2410.21035, Algorithm 1). The
    loss is a divergence of the student's one prediction at t, mean over masked tokens.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", refreshed=True, latents="refuse"),
        "student": RoleSpec(starts_from="teacher"),
    }

    class Config(RoundsConfig):
        type: Literal["sdtt"] = "sdtt"
        teacher_steps: int = Field(2, ge=1, description="teacher steps per student step")
        divergence: Divergence = Field("reverse_kl", description="of the student's prediction from the target")
        min_time: float = Field(1e-5, ge=0, lt=1, description="smallest t drawn")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not PROCESSES.get(recipe.process.type).cls.carry_over:
                yield (
                    "type",
                    f"targets are taken where masks are revealed, and the {recipe.process.type} process has none",
                )

    config: Config

    def usual_steps(self) -> int | None:
        return max(1, round(1 / (self.config.teacher_steps * self.config.last_step)))

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t = c.min_time + (1 - c.min_time) * ctx.sample_time(batch.size, antithetic=True)
        z_t = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
        targets = self.targets(z_t, t, batch, ctx)
        student = ctx.roles["student"](z_t, t, cond=batch.cond)
        parts = [divergence(c.divergence, student, target, where) for where, target in targets]
        values: Tensor = sum(parts[1:], parts[0])
        loss = ctx.mean(values, student.where)
        metrics: dict[str, Any] = {
            "round": torch.tensor(c.round(ctx)),
            "divergence": (batch.counted(values.detach()).sum(), batch.tokens(student.where)),
        }
        return LossOutput(loss, metrics)

    @torch.no_grad()
    def targets(self, z_t: Tensor, t: Tensor, batch: Batch, ctx: StepContext) -> list[tuple[Tensor, Prediction]]:
        """The masks of z_t in disjoint parts (BoolTensor [B, L]), each with the prediction that is its target."""
        c, process = self.config, discrete(ctx.process)
        length, z, rng, targets = c.length(c.round(ctx)), z_t, ctx.generators["sample"], []
        times = [t.double()]
        for _ in range(c.teacher_steps - 1):
            times.append((times[-1] - length).clamp_min(0.0))
        clock = ctx.denoiser("teacher").has_clock  # its predictions decide where to go on
        steps = [None] * (len(times) - 1) if clock else process.draw_masks(z, times, generator=rng)
        find_masks(process, [z], steps)
        for (now, then), masks in zip(pairwise(times), steps, strict=True):
            masked, prediction = process.to_predict(z), ctx.roles["teacher"](z, now.float(), cond=batch.cond)
            z = process.step_back(z, prediction, now, then, generator=rng, masks=masks)
            revealed = masked & ~process.to_predict(z) if masks is None else masks.revealed
            targets.append((revealed, prediction))
        prediction = ctx.roles["teacher"](z, times[-1].float(), cond=batch.cond)
        return [*targets, (process.to_predict(z), prediction)]

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        refresh_teacher(self.config, ctx)

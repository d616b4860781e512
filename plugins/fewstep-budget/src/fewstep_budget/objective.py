"""Step-budget conditioning (FS-DFM, arXiv 2509.20624).

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.predictions.base import rowwise
from fewstep.processes.base import PROCESSES
from fewstep.processes.uniform import UniformProcess
from fewstep.runtime.streams import uniform
from fewstep_budget.stages import WEIGHTS, Solver, mean_of_stages, runge_kutta


@OBJECTIVES.register("step_budget")
class StepBudget(Objective):
    """One student for all numbers of steps: it is told the length h of its step, and learns that of two halves.

    Lengths are 1, 1/2, 1/4, ... down to `shortest`. At the shortest the student learns the clean tokens (or what its
    teacher predicts). At any other, an average of the student takes a Runge-Kutta step from z_t in stages that are
    told h / 2, and the mean of their predictions is the student's target at (z_t, t, h), by forward KL. All values are
    means over tokens. The step input tells h; where it starts at zero, the student starts as its teacher at every h.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher", step_input=True),
        "target": RoleSpec(trained=False, starts_from="student", step_input=True, refreshed=True),
    }

    class Config(ComponentConfig):
        type: Literal["step_budget"] = "step_budget"
        shortest: float = Field(1 / 1024, gt=0, le=0.5, description="shortest step, a power of 1/2")
        length_power: float = Field(
            -1.0, description="a length h is drawn in proportion to this power of it; -1 favours short ones, 0 none"
        )
        solver: Solver = Field(
            "rk4", description="stages of the longer steps: two, four, or four in a row as in released code"
        )
        average: Literal["logits", "probabilities"] = Field(
            "logits", description="what the mean of the stages is of; that of logits is sharper"
        )
        shortest_target: Literal["data", "teacher"] = Field("data", description="what is learned at the shortest step")
        target_decay: float = Field(
            0.9995, ge=0, lt=1, description="decay of the student's average, which takes the stages"
        )

        @field_validator("shortest")
        @classmethod
        def _halves(cls, shortest: float) -> float:
            if not math.log2(shortest).is_integer():
                raise ValueError(f"must be 1/2, 1/4, 1/8, ..., not {shortest:g}")
            return shortest

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not issubclass(PROCESSES.get(recipe.process.type).cls, UniformProcess):
                yield (
                    "type",
                    f"'step_budget' is for the uniform process, not {recipe.process.type}, whose later stages know a "
                    "token for certain once it is shown; for masks use consistency or sdtt",
                )
            if recipe.step_input is None:
                yield "", "the student must know the length of its step; add `step_input: {}` to the recipe"
            if getattr(recipe.backbone, "time_conditioned", None) is False:
                yield "", "the student must know the start of its step; set backbone.time_conditioned to true"

        @property
        def lengths(self) -> list[float]:
            """All lengths, the shortest first."""
            return [self.shortest * 2**number for number in range(1 - round(math.log2(self.shortest)))]

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        t, length = self.steps(batch.size, ctx)
        z_t = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
        short = length == self.config.shortest
        parts = {"nll_shortest": short.nonzero()[:, 0], "kl_longer": (~short).nonzero()[:, 0]}
        losses, metrics = [], dict[str, Any]()
        for (name, rows), loss_of in zip(parts.items(), (self._shortest, self._longer), strict=True):
            if len(rows):
                losses.append(loss_of(batch, ctx, z_t, t, length, rows))
                metrics[name] = (
                    batch.counted(_spread(losses[-1].detach(), rows, batch)).sum(),
                    self._count(batch, rows),
                )
        values = torch.cat(losses)[torch.cat(tuple(parts.values())).argsort()]
        return LossOutput(ctx.mean(values), metrics)

    def steps(self, count: int, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Times t and lengths h of the steps, float64 [B], t - h >= 0; t is a multiple of the shortest length."""
        c = self.config
        lengths = torch.tensor(c.lengths, dtype=torch.float64, device=ctx.device)
        shares = lengths.pow(c.length_power)
        ends = (shares / shares.sum()).cumsum(0)[:-1]
        level = ctx.sample_time(count, antithetic=True).double()
        length = lengths[torch.bucketize(level, ends, right=True)]
        places = ((1 - length) / c.shortest).round() + 1
        place = (uniform((count,), ctx.generators["time"], device=ctx.device) * places).floor()
        return length + c.shortest * torch.minimum(place, places - 1), length

    def _shortest(self, batch: Batch, ctx: StepContext, z_t: Tensor, t: Tensor, length: Tensor, rows: Tensor) -> Tensor:
        """Cross entropy [N, L] of data or teacher at these rows."""
        z, t, s, cond = z_t[rows], t[rows].float(), (t - length)[rows].float(), batch.cond.select(rows)
        student = ctx.denoiser("student")(z, t, s, cond=cond)
        if self.config.shortest_target == "data":
            return student.nll(batch.x0[rows]) + 0
        with torch.no_grad():
            teacher = ctx.denoiser("teacher")(z, t, cond=cond)
        return student.cross_entropy(teacher) + 0

    def _longer(self, batch: Batch, ctx: StepContext, z_t: Tensor, t: Tensor, length: Tensor, rows: Tensor) -> Tensor:
        """KL [N, L] of the student's step from the mean of the stages at these rows."""
        c, inner = self.config, ctx.select(rows)
        z, t, length, cond = z_t[rows], t[rows], length[rows], batch.cond.select(rows)
        source = inner.generators["sample"]
        stages = runge_kutta(ctx.denoiser("target"), z, t, length, c.solver, cond, generator=source)
        student = ctx.denoiser("student")(z, t.float(), (t - length).float(), cond=cond)

        def divergence(log_p: Tensor, *of_stages: Tensor) -> Tensor:
            log_q = mean_of_stages(of_stages, WEIGHTS[c.solver], c.average).detach()
            return (log_q.exp() * (log_q - log_p)).sum(-1)

        return rowwise(divergence, [student, *stages], where=student.where) + 0

    @staticmethod
    def _count(batch: Batch, rows: Tensor) -> Tensor:
        """Number of text tokens of these rows."""
        return batch.tokens(_spread(torch.ones_like(batch.x0[rows], dtype=torch.bool), rows, batch))

    @torch.no_grad()
    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        target, student = ctx.roles["target"].state_dict(), ctx.roles["student"].state_dict()
        for name, weight in target.items():
            weight.lerp_(student[name], 1 - self.config.target_decay)


def _spread(values: Tensor, rows: Tensor, batch: Batch) -> Tensor:
    """Values [N, L] of these rows of a batch, and 0 at all others: [B, L]."""
    return values.new_zeros(batch.x0.shape).index_copy(0, rows, values)

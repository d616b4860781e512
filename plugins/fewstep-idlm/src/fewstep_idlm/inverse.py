"""Inverse distillation on the Gaussian path of the uniform process (IDLM, arXiv 2602.19066).

Shapes: B batch, L tokens, V vocabulary. Relaxed states are rows [B, L, V].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.core.sizes import too_large
from fewstep.data.base import DATASETS
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.predictions.base import Prediction, rowwise
from fewstep.processes.base import PROCESSES, TINY, discrete, per_token
from fewstep.processes.uniform import UniformProcess
from fewstep_idlm.relaxed import Levels, bound_of, gap, levels_at, relaxed_state

_GIGABYTES = 0.55
"""Limit on the relaxed states of a batch; a step has a handful of them."""


@OBJECTIVES.register("inverse")
class Inverse(Objective):
    """A student on whose samples the teacher's bound is as low as that of a network trained on them.

    The student sees data with Gaussian noise, relaxed by a softmax, and predicts soft tokens p. These get noise at a
    level of their own: w = a p + s e. Teacher and fake network read softmax(w / T). The student minimises the bound of
    p under the teacher less that under the fake, the fake its own bound. Gradients reach the student through p in the
    bound and through w. With exact networks and hard p the gap is KL(student || data).
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher"),
        "auxiliary": RoleSpec(starts_from="teacher"),
    }

    class Config(ComponentConfig):
        type: Literal["inverse"] = "inverse"
        times: Literal["same", "independent"] = Field(
            "same",
            description="level of the second noise: that of the student's input (as released), or one of its own",
        )
        gamma: tuple[float, float] = Field(
            (-3.5, -1.75),
            description="log noise-to-signal ratio at the two ends of the path; Duo's, for 50,000 symbols",
        )
        temperature: float = Field(0.1, gt=0, description="T: networks read softmax(w / T); smaller is nearer to ids")
        through_state: bool = Field(True, description="gradients reach the student through w also, not p alone")
        aux_steps: int = Field(1, ge=1, description="updates of the fake network before each update of the student")

        @model_validator(mode="after")
        def _towards_noise(self) -> Inverse.Config:
            if self.gamma[0] >= self.gamma[1]:
                raise ValueError("gamma: noise must grow from the first end to the second")
            return self

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            process = recipe.process.type
            if not issubclass(PROCESSES.get(process).cls, UniformProcess):
                yield "type", f"'inverse' is for the uniform process, not {process}; with masks `dmmd` has IDLM's form"
            spec = DATASETS.get(recipe.data.type).cls.outline(recipe.data)
            if spec is not None:
                count = recipe.train.batch_size // recipe.train.accumulate
                if reason := _too_large(count, spec.length, spec.vocab_size):
                    yield "", f"{reason}; raise train.accumulate"

    config: Config

    def phases(self) -> Sequence[Phase]:
        return [Phase("auxiliary", ("auxiliary",), repeat=self.config.aux_steps), Phase("student", ("student",))]

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c, process = self.config, discrete(ctx.process)
        if reason := _too_large(*batch.x0.shape, process.vocab_size):
            raise UserError(f"objective: {reason}; raise train.accumulate")

        # 1. The student's soft tokens, from data with Gaussian noise.
        grad = "student" in phase.train
        first = levels_at(ctx.sample_time(batch.size), c.gamma, process.vocab_size)
        clean = one_hot(batch.x0, process.vocab_size).float()
        rows, _ = relaxed_state(clean, first, c.temperature, generator=ctx.generators["noise"])
        with torch.set_grad_enabled(grad):
            student = ctx.denoiser("student")(rows, _time(ctx, first), cond=batch.cond).output
            p = student.log_probs().exp().view(clean.shape)

            # 2. Noise again, at a level of its own; the rows that teacher and fake network read.
            again = first if c.times == "same" else levels_at(ctx.sample_time(batch.size), c.gamma, process.vocab_size)
            soft = p if c.through_state else p.detach()
            rows, z = relaxed_state(soft, again, c.temperature, generator=ctx.generators["sample"])

        # 3. The loss of the role that this phase trains. Parameters of the others are frozen, their inputs are not.
        t, weight = _time(ctx, again), again.alpha * process.vocab_size / (1 - again.alpha).clamp_min(TINY)

        def predict(role: str) -> Prediction:
            return process.leave_one_out(ctx.denoiser(role)(rows, t, cond=batch.cond), z, t)

        form, others = (gap, [predict("teacher"), predict("auxiliary")]) if grad else (bound_of, [predict("auxiliary")])
        extras = [z, per_token(weight).expand(z.shape)]
        values = per_token(again.speed).float() * rowwise(form, [student, *others], extras, where=student.where)
        loss = ctx.mean(values)
        return LossOutput(loss, {f"{phase.name}_loss": loss.detach()})


def _time(ctx: StepContext, levels: Levels) -> Tensor:
    """Times of the process [B] at these levels."""
    return ctx.process.schedule.time_of(levels.alpha).float()


def _too_large(count: int, length: int, vocab_size: int) -> str | None:
    return too_large(count, length, vocab_size, _GIGABYTES, label="relaxed states")

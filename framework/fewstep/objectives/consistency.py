"""Discrete consistency distillation: predictions at both states of a coupled pair agree.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.parts.divergence import Divergence, divergence
from fewstep.objectives.parts.rounds import RoundsConfig, refresh_teacher
from fewstep.predictions.evidence import LeaveOneOutPrediction
from fewstep.predictions.positions import difference, intersection, lies_within
from fewstep.predictions.shaping import shape
from fewstep.processes.base import Process, find_masks, per_token
from fewstep.runtime.streams import Randomness, uniform
from fewstep.schedules.gaussian_dual import induced_alpha, keep_alpha


@OBJECTIVES.register("consistency")
class Consistency(Objective):
    """The student at z_t learns the teacher's prediction at z_s, a little nearer to the data on the same path.

    Both states of a pair share their noise, so they differ only by the step from t to s. For the uniform process this
    is the pair of Duo's Gaussian paths (DCD, arXiv 2506.10892, section 4). For the masked process masks are nested, as
    on the Gaussian path of Latent Shadows (MCD, arXiv 2602.00792): a token that is clean at t is clean at s. A token
    that z_s shows and z_t hides is itself the target (cross entropy).
    Steps double from round to round, and the student becomes the teacher; or the teacher is an average of the student.
    The loss is a mean over the tokens that the student predicts.

    Leave-one-out networks (Duo's; `output: leave_one_out`) are compared by their leave-one-out rows, which do not know
    z_t at their place. For one token they are the same at both ends of a path, so it rests at the exact teacher. The
    rows of E[x | z_t] know it, and on shared noise their mean is biased by an amount that falls with the step.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", refreshed=True, latents="refuse"),
        "student": RoleSpec(starts_from="teacher"),
    }

    class Config(RoundsConfig):
        type: Literal["consistency"] = "consistency"
        divergence: Divergence = Field("reverse_kl", description="of the student's prediction from the teacher's")
        times: Literal["uniform", "gaussian"] = Field(
            "uniform",
            description="t, s and steps are those of the process, or of the Gaussian path (Duo's; with masks MCD's)",
        )
        gamma: tuple[float, float] = Field(
            (-4.0, -1.0), description="log noise-to-signal ratio of that path at its two ends"
        )
        teacher_temperature: float | tuple[float, float] = Field(
            1.0,
            description="below 1 sharpens the teacher; [first, last]: from round to round it goes evenly from one to "
            "the other",
        )
        teacher_floor: float = Field(
            0.0,
            ge=0,
            lt=1,
            description="smallest probability of a symbol under the teacher, which bounds reverse KL",
        )
        teacher_decay: float | None = Field(
            None, ge=0, lt=1, description="makes the teacher the student's average, with this decay per update"
        )
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest t drawn, before a step is added")

        @model_validator(mode="after")
        def _towards_noise(self) -> Consistency.Config:
            if self.gamma[0] >= self.gamma[1]:
                raise ValueError("gamma: noise must grow from the first end to the second")
            return self

        @model_validator(mode="after")
        def _above_zero(self) -> Consistency.Config:
            if min(self.temperatures) <= 0:
                raise ValueError("teacher_temperature: must be above 0; below 1 sharpens the teacher")
            return self

        @property
        def temperatures(self) -> tuple[float, float]:
            """Temperature of the teacher in the first and in the last round."""
            t = self.teacher_temperature
            return t if isinstance(t, tuple) else (t, t)

        def temperature(self, number: int) -> float:
            """Temperature of the teacher in round `number`, counted from 0."""
            first, last = self.temperatures
            return first + (last - first) * number / max(1, self.rounds - 1)

    config: Config

    def usual_steps(self) -> int | None:
        return max(1, round(1 / sum(self.config.length(number) for number in range(self.config.rounds))))

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t, s = self.pair(batch.size, ctx)
        z_t = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
        z_s = step_on_path(ctx.process, batch.x0, z_t, t, s, generator=ctx.generators["noise"])
        know_path(ctx.process, z_t, z_s)
        student = ctx.roles["student"](z_t, t.float(), cond=batch.cond)
        with torch.no_grad():
            teacher = ctx.roles["teacher"](z_s, s.float(), cond=batch.cond)
        if isinstance(student, LeaveOneOutPrediction) and isinstance(teacher, LeaveOneOutPrediction):
            student, teacher = student.output, teacher.output
        temperature = c.temperature(c.round(ctx))
        teacher = shape(teacher, temperature_=temperature, floor_=c.teacher_floor)
        both = intersection(student.where, teacher.where)
        value = divergence(c.divergence, student, teacher, both)
        revealed = student.nll(batch.x0, difference(student.where, both))
        loss = ctx.mean(value + revealed, student.where)
        metrics: dict[str, Any] = {
            "round": torch.tensor(c.round(ctx)),
            "divergence": (batch.counted(value.detach()).sum(), batch.tokens(both)),
        }
        return LossOutput(loss, metrics)

    def pair(self, count: int, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Times t > s of the process, float64 [B]."""
        c, schedule = self.config, ctx.process.schedule
        length = c.length(c.round(ctx))
        t = c.min_time + (1 - c.min_time) * ctx.sample_time(count, antithetic=True).double()
        t = (t + length).clamp_max(1.0)
        s = (t - length).clamp_min(0.0)
        if c.times == "uniform":
            return t, s
        start, end = c.gamma
        level = keep_alpha if ctx.process.carry_over else induced_alpha
        levels = [level(start + (end - start) * time, ctx.process.vocab_size) for time in (t, s)]
        return schedule.time_of(levels[0]), schedule.time_of(levels[1])

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        decay = self.config.teacher_decay
        if decay is None:
            refresh_teacher(self.config, ctx)
            return
        teacher, student = ctx.roles["teacher"].state_dict(), ctx.roles["student"].state_dict()
        with torch.no_grad():
            for name, weight in teacher.items():
                weight.lerp_(student[name], 1 - decay)


def know_path(process: Process, z_t: Tensor, z_s: Tensor) -> None:
    """Find the masks of both states of a pair, of which those at s are nested in those at t, with one wait."""
    if process.carry_over:
        lies_within(process.to_predict(z_s), process.to_predict(z_t))
        find_masks(process, [z_t, z_s])


def step_on_path(process: Process, x0: Tensor, z_t: Tensor, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
    """z_s of the path with the noise of z_t (LongTensor [B, L]): a token turns clean once, and otherwise stays.

    For any noise, z = x0 if one uniform number per token is below P(z = x0) = alpha + (1 - alpha) pi(x0), and otherwise
    z is a symbol that is fixed along the path. So noise turns clean from t to s with probability
    (P_s - P_t) / (1 - P_t). This is the distribution of Duo's pairs, argmax(a onehot(x0) + s e) with one e for both:
    x0 wins if the largest of the other coordinates is below a / s plus its own noise, and the index of the largest
    does not depend on a / s. With masks it is that of MCD's pairs, which show x0 if it wins.
    """
    share = 0.0 if process.carry_over else 1 / process.vocab_size
    clean = [per_token(alpha + (1 - alpha) * share) for alpha in map(process.schedule.alpha, (t.double(), s.double()))]
    turns = (clean[1] - clean[0]) / (1 - clean[0]).clamp_min(torch.finfo(torch.float64).tiny)
    u = uniform(z_t.shape, generator, device=z_t.device)
    return torch.where(u < turns, x0, z_t)

"""D-MMD: Discrete Moment Matching Distillation (arXiv 2603.20155, Algorithm 1); its settings give related methods.

Shapes: B batch, L tokens, V vocabulary. z_t and z_s are noised ids [B, L].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.backbones.base import BACKBONES
from fewstep.core.component import ComponentConfig, Strict
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.critic import CriticDenoiser
from fewstep.denoisers.guidance import guided
from fewstep.denoisers.low_rank import LowRankDenoiser
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.matching.diagnostics import diagnose
from fewstep.objectives.matching.losses import LossName, matching_loss
from fewstep.objectives.matching.student_step import (
    Renoise,
    StudentStep,
    Target,
    check_target,
    draw_step,
    soft_targets,
    student_step,
)
from fewstep.objectives.matching.times import TimeLaw, draw_times, typical_steps
from fewstep.objectives.parts.adversarial import (
    Adversarial,
    check_adversarial,
    check_networks,
    discriminator_loss,
    judged,
    student_values,
)
from fewstep.objectives.parts.ramp import CountOrRamp, Ramp
from fewstep.objectives.parts.teacher_training import (
    LEARNER,
    TeacherTraining,
    check_teacher,
    follow,
    teacher_loss,
    with_teacher,
)
from fewstep.objectives.parts.trajectories import (
    Groups,
    Turns,
    check_trajectories,
    follow_trajectories,
    places_in_turns,
)
from fewstep.objectives.parts.weighting import WeightingConfig, loss_weight
from fewstep.predictions.base import Prediction
from fewstep.predictions.evidence import Output
from fewstep.predictions.shaping import shape
from fewstep.processes.base import PROCESSES, discrete, per_token


class Warmup(Strict):
    """The first share of a training, in which the student learns trajectories of its teacher (`shared_noise`)."""

    share: float = Field(0.25, gt=0, lt=1, description="share of the training's steps")
    groups: Groups = Field(4, description="turns of the teacher; [rows, columns] of an image; they divide the sample")


@OBJECTIVES.register("dmmd")
class DMMD(Objective):
    """Discrete moment matching: a few-step student on whose samples teacher and auxiliary agree.

    From real data noised to t the student takes one sampling step to s. The auxiliary learns to denoise the student's
    samples. The student moves its probabilities to symbols whose log-probability under the teacher exceeds that under
    the auxiliary. Both agree when the student draws from the teacher's distribution (arXiv 2603.20155, eq. 9-12).
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher", adapters=True),
        "auxiliary": RoleSpec(starts_from="teacher", step_input=True, network=CriticDenoiser),
        LEARNER: RoleSpec(starts_from="teacher", needed_by="teacher_training"),
    }

    class Config(WeightingConfig):
        type: Literal["dmmd"] = "dmmd"
        k: CountOrRamp = Field(
            8, description="sampling steps that the student is trained for; {from, to, over}: they change as it trains"
        )
        k_max: int | None = Field(
            None, ge=2, description="largest k, drawn for each sample from k up to this: one student, several NFE"
        )
        times: TimeLaw = Field("uniform", description="distribution of (t, s): Algorithm 1's, or see docs/dmmd.md")
        renoise: Renoise = Field(
            "posterior", description="z_s from q(z_s | z_t, x), from q(z_s | x), or from q(z_s | a second draw x)"
        )
        loss: LossName = Field("cross_entropy", description="loss that compares teacher and auxiliary")
        posterior_step: float = Field(0.01, gt=0, lt=1, description="length of the posterior's step (loss: posterior)")
        aux_target: Target = Field(
            "auto",
            description="target of the auxiliary: drawn tokens (hard) or probabilities (soft); auto: soft if masked",
        )
        updates: Literal["alternating", "simultaneous"] = Field(
            "alternating",
            description="one role per step (Algorithm 1), or both from the same draws, which is cheaper",
        )
        aux_steps: int = Field(1, ge=1, description="auxiliary updates after each update of the student")
        regulariser: float = Field(
            1.0, ge=0, description="weight of the term that keeps the auxiliary near the teacher"
        )
        auxiliary_rank: int | None = Field(
            None,
            ge=0,
            description="rank of what the auxiliary learns beside the teacher's weights, which take no memory then; "
            "0: a head of its own on the teacher's trunk; null: it has weights of its own",
        )
        teacher_temperature: float = Field(1.0, gt=0, description="below 1 sharpens the teacher that is distilled")
        teacher_top_p: float = Field(1.0, gt=0, le=1, description="below 1 lowers the teacher's symbols outside top-p")
        top_p_delta: float | None = Field(
            2.0, gt=0, description="amount by which their logits are lowered; null forbids them, which diverges"
        )
        teacher_guidance: float = Field(
            1.0, ge=0, description="weight of classifier-free guidance of the teacher that is distilled; 1 for none"
        )
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest s drawn")
        below_end: float = Field(
            0.0, ge=0, le=1, description="share of draws whose s is below the end of the student's step"
        )
        warmup: Warmup | None = Field(None, description="trajectories of the teacher before the game; null for none")
        auxiliary_first: float = Field(
            0.0, ge=0, lt=1, description="share of the training in which the auxiliary learns alone, before the game"
        )
        student_ramp: float = Field(
            0.0,
            ge=0,
            le=1,
            description="share of the training, from the game's first step, over which the student's rate rises from 0",
        )
        adversarial: Adversarial | None = Field(
            None, description="discriminator between noised data and the student's z_s; null for none"
        )
        teacher_training: TeacherTraining | None = Field(
            None, description="train a copy of the teacher on real data, which the teacher follows; null for none"
        )
        backward: float = Field(
            0.0,
            ge=0,
            le=1,
            description="share of a batch whose z_t is of the student's own walk from noise, in place of noised data",
        )

        @property
        def game(self) -> float:
            """Share of the training after which both players learn."""
            return self.warm + self.auxiliary_first

        @property
        def warm(self) -> float:
            """Share of the training that the warm-up takes."""
            return 0.0 if self.warmup is None else self.warmup.share

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            means = not PROCESSES.get(recipe.process.type).cls.carry_over and recipe.output == "x_mean"
            if self.loss == "posterior" and means:
                yield "loss", "posteriors are compared by leave-one-out networks; set `output: leave_one_out`"
            if self.updates == "simultaneous" and self.aux_steps > 1:
                yield "aux_steps", "simultaneous updates are one to one; set aux_steps to 1, or updates to alternating"
            if self.times in _FORWARD and self.renoise == "posterior":
                yield "renoise", f"{_FORWARD[self.times]}; set renoise to forward or forward_soft"
            if self.k_max is not None and isinstance(self.k, Ramp):
                yield "k_max", "k changes with the training already; give one of the two"
            elif self.k_max is not None and not isinstance(self.k, Ramp) and self.k_max <= self.k:
                yield "k_max", f"must be more than k, which is {self.k}"
            if self.below_end and self.times not in ("uniform", "grid"):
                yield "below_end", f"with times '{self.times}' s has nothing to do with the step's end; set it to 0"
            if self.game >= 1:
                yield "auxiliary_first", "no steps are left for the game; lower it or warmup.share"
            if self.warmup is not None:
                yield from check_trajectories("warmup.groups", self.warmup.groups, recipe)
            if self.teacher_guidance != 1 and recipe.label_input is None:
                yield "teacher_guidance", "a teacher is guided by labels; add `label_input: {}`"
            if self.adversarial is not None:
                shaping = ("teacher_temperature", "teacher_top_p", "teacher_guidance")
                shaped = [key for key in shaping if getattr(self, key) != 1]
                yield from check_adversarial(self.renoise, shaped, recipe)
            if self.teacher_training is not None and self.auxiliary_rank is not None:
                yield "auxiliary_rank", "shares the teacher's weights, which teacher_training moves; set one to null"
            if self.adversarial is not None and self.adversarial.trunk and self.auxiliary_rank == 0:
                yield "auxiliary_rank", "0 leaves the trunk as it is, and adversarial.trunk trains it; set one of them"
            if self.backward and BACKBONES.get(recipe.backbone.type).cls.uses_context:
                yield (
                    "backward",
                    "a walk from noise goes over whole samples; use a backbone without blocks, or set it to 0",
                )
            if self.backward and self.times == "start":
                yield "backward", "with times 'start' every step begins at noise; set it to 0"
            yield from check_target("aux_target", self.aux_target, recipe)

    config: Config
    _turns: Turns

    def __init__(self, config: ComponentConfig | None = None) -> None:
        super().__init__(config)
        if self.config.teacher_training is not None:
            teacher = replace(self.roles["teacher"], refreshed=True)
            self.roles = {**self.roles, "teacher": teacher}  # type: ignore[misc]
        if self.config.teacher_training is not None or self.config.adversarial is not None:
            self.shardable = False  # type: ignore[misc]  # see `check_teacher` and `check_networks`

    @classmethod
    def output(cls, config: ComponentConfig) -> Output:
        return "leave_one_out" if getattr(config, "loss", None) == "posterior" else "x_mean"

    def usual_steps(self) -> int | None:
        return typical_steps(self.config.times, _steps(self.config, 1, 1))

    def setup(self, ctx: StepContext) -> None:
        if self.config.adversarial is not None:
            check_networks(ctx)
        if self.config.teacher_training is not None:
            check_teacher(ctx)
        if self.config.warmup is not None:
            self._turns = places_in_turns(ctx.roles["student"], self.config.warmup.groups)

    def phases(self) -> Sequence[Phase]:
        c = self.config
        begin, game = c.warm, c.game
        ramp: dict[str, Any] = {"after": game, "ramp": c.student_ramp, "ramped": ("student",)}
        phases = [] if c.warmup is None else [Phase("warmup", ("student",), until=begin)]
        if c.updates == "alternating":
            alone = Phase("auxiliary", ("auxiliary",), repeat=c.aux_steps, after=begin)
            players = [Phase("student", ("student",), **ramp), alone]
        else:
            if c.auxiliary_first:
                phases.append(Phase("auxiliary", ("auxiliary",), after=begin, until=game))
            players = [Phase("both", ("student", "auxiliary"), **ramp)]
        if c.teacher_training is not None:
            players = with_teacher(players, c.teacher_training, begin)
        return [*phases, *players]

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        if phase.name == "teacher" and self.config.teacher_training is not None:
            follow(self.config.teacher_training, ctx)

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        if phase.name == "warmup":
            return self._warmup_loss(batch, ctx)
        if phase.name == "teacher" and self.config.teacher_training is not None:
            return teacher_loss(self.config.teacher_training, phase, batch, ctx)
        # 1. From noised real data, one sampling step of the student: soft probabilities, a hard draw x, and z_s.
        c = self.config
        grad = "student" in phase.train
        k = _steps(c, ctx.step, ctx.steps)
        draws = draw_step(
            batch,
            ctx,
            k=k,
            min_time=c.min_time,
            times=c.times,
            renoise=c.renoise,
            below_end=c.below_end,
            backward=c.backward,
        )
        step = student_step(batch, ctx, draws, grad=grad, renoise=c.renoise)
        student, s = step.prediction, step.s

        # 2. Predictions of teacher and auxiliary from z_s.
        with torch.no_grad():
            unshaped = self._guided(step.z_s, s, batch, ctx)
            teacher = self._shaped(unshaped)
        log_ratio = None
        with torch.set_grad_enabled("auxiliary" in phase.train):
            if c.adversarial is None:
                auxiliary = self._auxiliary(step, unshaped, batch, ctx)
            else:
                auxiliary, log_ratio = judged(c.adversarial, step, batch, ctx)

        # 3. The losses of the roles that this phase trains.
        weight = per_token(loss_weight(c, s, ctx.process.schedule))
        form = matching_loss(c.loss, discrete(ctx.process), step.z_s, s, c.posterior_step)
        values: dict[str, Tensor] = {}
        if "student" in phase.train:
            values["student_loss"] = form.student(student, auxiliary, teacher)
            if c.adversarial is not None and log_ratio is not None:
                process = discrete(ctx.process)
                values["adversarial_loss"] = student_values(c.adversarial, step, log_ratio, process)
        if "auxiliary" in phase.train:
            target = student if soft_targets(c.aux_target, ctx.process) else step.x
            values["auxiliary_loss"] = form.fit(target, auxiliary, teacher, c.regulariser)
        loss = ctx.mean(weight * sum(values.values()))  # one sum, since both losses read the same rows
        metrics: dict[str, Any] = dict.fromkeys(values, loss.detach())
        if len(values) > 1:
            metrics = {name: ctx.mean(weight * value.detach()) for name, value in values.items()}
        if log_ratio is not None:
            metrics["reward"] = log_ratio.detach().mean()
        if c.adversarial is not None and log_ratio is not None and "auxiliary" in phase.train:
            cost, more = discriminator_loss(c.adversarial, step, log_ratio, batch, ctx)
            loss, metrics = loss + cost, {**metrics, **more}
        if ctx.diagnose:
            metrics |= diagnose(student, teacher, auxiliary, step.t, s)
        return LossOutput(loss, metrics)

    def _warmup_loss(self, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        k = _steps(c, ctx.step, ctx.steps)
        t, _, end = draw_times(c.times, batch.size, k, c.min_time, ctx.sample_time_of_blocks)
        return follow_trajectories(c, batch, ctx, t, end, self._turns, partial(self._teacher, batch=batch, ctx=ctx))

    def _auxiliary(self, step: StudentStep, teacher: Prediction, batch: Batch, ctx: StepContext) -> Prediction:
        """The auxiliary's prediction at z_s; from the teacher's there, if it is a head on the teacher's trunk."""
        network = ctx.roles["auxiliary"]
        alone = self.config.teacher_guidance == 1
        if alone and isinstance(network, LowRankDenoiser) and network.reads(ctx.roles["teacher"]):
            return network.on(teacher)
        return network(step.z_s, step.s, step.next_time, cond=batch.cond)

    def _teacher(self, z: Tensor, t: Tensor, batch: Batch, ctx: StepContext) -> Prediction:
        """The prediction that is distilled, guided and shaped, in every loss (arXiv 2603.20155, section 3.3)."""
        return self._shaped(self._guided(z, t, batch, ctx))

    def _guided(self, z: Tensor, t: Tensor, batch: Batch, ctx: StepContext) -> Prediction:
        c, denoiser, noise = self.config, ctx.denoiser("teacher"), ctx.generators["noise"]
        return guided(denoiser, z, t, cond=batch.cond, weight=c.teacher_guidance, generator=noise)

    def _shaped(self, teacher: Prediction) -> Prediction:
        c = self.config
        return shape(teacher, temperature_=c.teacher_temperature, top_p_=c.teacher_top_p, delta=c.top_p_delta)


_FORWARD = {
    "independent": "s may lie after t when times are independent",
    "same": "nothing is drawn anew from t to s when both are the same",
}
"""Laws of times that need a fresh forward draw, and why."""


def _steps(config: DMMD.Config, step: int, steps: int) -> int | tuple[int, int]:
    """k at a step of a training of so many, or the range from k to k_max."""
    k = config.k.at(step, steps) if isinstance(config.k, Ramp) else config.k
    return k if config.k_max is None else (k, config.k_max)

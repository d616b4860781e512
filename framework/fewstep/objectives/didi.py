"""DiDi-Instruct: samples rewarded by a discriminator, a student trained by policy gradient (arXiv 2509.25035).

Shapes: G trajectories a group, B batch (whole groups), L tokens, n steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.backbones.base import BACKBONES
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.denoisers.discriminator import Discriminator, DiscriminatorConfig
from fewstep.denoisers.reward import LogRatio
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.parts.divergence import divergence
from fewstep.objectives.parts.weighting import WeightingConfig, loss_weight
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, discrete, find_masks
from fewstep.runtime.streams import repeated, uniform


@dataclass(frozen=True)
class Trajectory:
    """The student's samples from pure noise: `x` (ids [B, L]), and log p of all revealed tokens, [B].

    `z` is the state [B, L] before the last step, at times `tau` [B], and `prediction` the student's prediction there.
    """

    x: Tensor
    log_p: Tensor
    z: Tensor
    tau: Tensor
    prediction: Prediction


@OBJECTIVES.register("didi")
class DiDi(Objective):
    """The student draws samples in a few steps, and learns to draw more samples that a discriminator takes for data.

    Minimises the integral over t of w(t) KL(student's z_t || data's z_t) by its score-function gradient (arXiv
    2509.25035): -E[w(t) r(z_t) grad log p(trajectory)]. The reward r = log D / (1 - D) is that of a discriminator
    between noised real data and noised samples. Trajectories of a group share their times, and are compared with each
    other. A Jeffreys divergence keeps the student near the teacher, and an entropy bonus prevents collapse. All terms
    are per token.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher", adapters=True),
        "discriminator": RoleSpec(starts_from="teacher", network=Discriminator),
    }
    per_token = False

    class Config(WeightingConfig, DiscriminatorConfig):
        type: Literal["didi"] = "didi"
        steps: int = Field(2, ge=1, description="steps of a trajectory, at uniform times; the paper has 2")
        group: int = Field(4, ge=2, description="trajectories that share their times; must divide the batch")
        normalise: bool = Field(True, description="divide advantages by their standard deviation within the group")
        eps: float = Field(1e-4, gt=0, description="added to that deviation")
        jeffreys: float = Field(0.1, ge=0, description="weight of the divergence from the teacher before the last step")
        entropy: float = Field(0.01, ge=0, description="weight of the bonus for the student's entropy there")
        label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the discriminator's two classes")
        discriminator_steps: int = Field(1, ge=1, description="discriminator updates after each student update")
        head_start: float = Field(
            0.1, ge=0, lt=1, description="first share of the training, in which the discriminator learns alone"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not PROCESSES.get(recipe.process.type).cls.carry_over:
                yield (
                    "type",
                    f"trajectories are of masks that are revealed, and the {recipe.process.type} process has none",
                )
            if BACKBONES.get(recipe.backbone.type).cls.uses_context:
                yield "type", "a discriminator reads whole samples; use a backbone without blocks"
            size, parts = recipe.train.batch_size, recipe.train.accumulate
            if size % parts == 0 and size // parts % self.group:
                yield "group", f"micro-batches of {size // parts} cannot be split into groups of {self.group}"

    config: Config

    def phases(self) -> Sequence[Phase]:
        return [
            Phase("student", ("student",), after=self.config.head_start),
            Phase("discriminator", ("discriminator",), repeat=self.config.discriminator_steps),
        ]

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        return self._student(batch, ctx) if "student" in phase.train else self._discriminator(batch, ctx)

    def _student(self, batch: Batch, ctx: StepContext) -> LossOutput:
        """Policy gradient and regularisers. Only the conditions of the batch are used, one per group."""
        # 1. Groups of trajectories, neighbours in the batch; times and conditions are those of a group's first sample.
        c, places = self.config, torch.arange(batch.size, device=ctx.device)
        leaders = places - places % c.group
        cond = batch.cond.select(leaders)
        times, t = self.times(batch.size, ctx)[:, leaders], ctx.sample_time(batch.size)[leaders]
        trajectory = draw_trajectory(times, cond, ctx)

        # 2. The reward of each trajectory at its noised state, relative to its group.
        z_t = ctx.process.corrupt(trajectory.x, t, generator=ctx.generators["noise"]).x_t
        reward = log_ratio(z_t, t, cond, ctx)
        advantage = loss_weight(c, t, ctx.process.schedule) * self.advantages(reward)
        samples = ctx.as_batch(trajectory.x)
        length = trajectory.x.shape[1] if samples.text is None else samples.tokens() / samples.size
        policy = -(advantage * trajectory.log_p).mean() / length

        # 3. Regularisers: nearness to the teacher, and entropy.
        with torch.no_grad():
            teacher = ctx.roles["teacher"](trajectory.z, trajectory.tau, cond=cond, generator=ctx.generators["noise"])
        gap = divergence("jeffreys", trajectory.prediction, teacher, trajectory.prediction.where)
        entropy = trajectory.prediction.entropy()
        loss = policy + c.jeffreys * samples.mean(gap) - c.entropy * samples.mean(entropy)
        count = samples.tokens(trajectory.prediction.where)
        metrics: dict[str, Any] = {
            "reward": reward.mean(),
            "log_p": trajectory.log_p.detach().mean() / length,
        }
        metrics["jeffreys"] = (gap.detach().sum(), count)
        metrics["student_entropy"] = (entropy.detach().sum(), count)
        return LossOutput(loss, metrics)

    def _discriminator(self, batch: Batch, ctx: StepContext) -> LossOutput:
        """Cross entropy of the discriminator between noised data and noised fresh samples, at the same times."""
        t, rng = ctx.sample_time(batch.size, antithetic=True), repeated(ctx.generators["noise"], 2)
        with torch.no_grad():
            trajectory = draw_trajectory(self.times(batch.size, ctx), batch.cond, ctx)
        z_t = ctx.process.corrupt(torch.cat((batch.x0, trajectory.x)), t.repeat(2), generator=rng).x_t
        log_p = discriminator_of(ctx).log_probs(z_t, t.repeat(2), batch.cond.repeat(2))
        real = torch.arange(2 * batch.size, device=ctx.device) < batch.size
        loss = torch.nn.functional.cross_entropy(log_p, real.long(), label_smoothing=self.config.label_smoothing)
        return LossOutput(loss, {"accuracy": (log_p.detach().argmax(1) == real).float().mean()})

    def times(self, count: int, ctx: StepContext) -> Tensor:
        """From 1 down to 0 with n - 1 uniform times between them, [n + 1, count]."""
        shape = (count, self.config.steps - 1)
        between = uniform(shape, ctx.generators["time"], device=ctx.device, dtype=torch.float32).T
        ends = torch.ones(1, count, device=ctx.device), torch.zeros(1, count, device=ctx.device)
        return torch.cat((ends[0], between.sort(0, descending=True).values, ends[1]))

    def advantages(self, reward: Tensor) -> Tensor:
        """Rewards [B] = [B / G, G] minus the mean of their group; with `normalise` over its standard deviation."""
        groups = reward.view(-1, self.config.group)
        centred = groups - groups.mean(1, keepdim=True)
        if self.config.normalise:
            centred = centred / (groups.std(1, correction=0, keepdim=True) + self.config.eps)
        return centred.flatten()


def draw_trajectory(times: Tensor, cond: Condition, ctx: StepContext) -> Trajectory:
    """Let the student sample from pure noise, at times [n + 1, B] that fall from 1 to 0.

    log p is the sum over tokens of log p(token | state before its step). The choice of revealed tokens does not depend
    on the student, and is left out.
    """
    student, rng = ctx.roles["student"], ctx.generators["sample"]
    process, last = discrete(ctx.process), times[-2]
    z = process.prior((times.shape[1], student.length), device=ctx.device, generator=rng)
    log_p = torch.zeros(times.shape[1], device=ctx.device)
    steps = process.draw_masks(z, times[:-1].unbind(), generator=rng)
    find_masks(process, [z], steps)
    for (now, then), masks in zip(pairwise(times[:-1]), steps, strict=True):
        before, prediction = z, student(z, now, then, cond=cond, generator=ctx.generators["noise"])
        z = process.step_back(before, prediction, now, then, generator=rng, masks=masks)
        log_p = log_p - prediction.nll(z, where=z != before if masks is None else masks.revealed).sum(1)
    prediction = student(z, last, times[-1], cond=cond, generator=ctx.generators["noise"])
    x = prediction.sample(generator=rng)
    return Trajectory(x, log_p - prediction.nll(x).sum(1), z, last, prediction)


@torch.no_grad()
def log_ratio(z_t: Tensor, t: Tensor, cond: Condition, ctx: StepContext) -> Tensor:
    """The reward log D / (1 - D) [B], D the discriminator's probability that z_t comes from data."""
    return LogRatio(discriminator_of(ctx)).score(z_t, t, cond)


def discriminator_of(ctx: StepContext) -> NetworkClassifier:
    """The role, whose two classes are the student's samples (0) and data (1)."""
    discriminator = ctx.roles["discriminator"]
    assert isinstance(discriminator, NetworkClassifier)
    return discriminator

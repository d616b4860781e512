"""D-MMD in the teacher's parameter space: no auxiliary is trained (arXiv 2406.04103, Algorithm 3, for discrete data).

Shapes: B batch, L tokens, V vocabulary. z_t and z_s are noised ids [B, L], s < t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.derivative import directional_derivative
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.matching.diagnostics import mean_entropy
from fewstep.objectives.matching.student_step import (
    StudentStep,
    Target,
    check_target,
    draw_step,
    soft_targets,
    student_step,
)
from fewstep.objectives.parts.weighting import WeightingConfig, loss_weight
from fewstep.predictions.base import rowwise
from fewstep.predictions.row_losses import Mean
from fewstep.processes.base import StepMasks, discrete, find_masks, per_token


@OBJECTIVES.register("dmmd_instant")
class DMMDInstant(Objective):
    """Moment matching with the teacher's gradient as the moment: the auxiliary is one infinitesimal step away.

    Minimises 1/2 |m|^2_Lambda, m = E_student[grad_theta L(x, z_s)] - E_data[grad_theta L(x, z_s)], with the teacher's
    loss L = w(s) CE(x | x_theta(z_s)). One half of the batch gives nu = Lambda m, the other the derivative of the
    teacher's loss of student samples along nu. The two halves together make the estimate unbiased
    (docs/dmmd-instant.md).
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", latents="refuse"),
        "student": RoleSpec(starts_from="teacher", adapters=True),
    }
    shardable = False

    class Config(WeightingConfig):
        type: Literal["dmmd_instant"] = "dmmd_instant"
        k: int = Field(8, ge=1, description="sampling steps that the student is trained for; steps span up to 1/k")
        target: Target = Field(
            "auto",
            description="tokens in the teacher's loss: drawn (hard) or probabilities (soft); auto: soft if masked",
        )
        centred: bool = Field(
            True, description="subtract the teacher's gradient on real data, which is zero only for a perfect teacher"
        )
        preconditioner: Literal["none", "adam"] = Field(
            "none", description="Lambda: 1, or 1 / root mean square of the gradients so far, as in Adam"
        )
        beta: float = Field(0.99, ge=0, lt=1, description="memory of the mean square (preconditioner: adam)")
        eps: float = Field(1e-12, gt=0, description="added to the root mean square (preconditioner: adam)")
        step_size: float = Field(
            1.0, gt=0, description="factor of the loss, which clipping sees and AdamW undoes; about 1e-3 for adam"
        )
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest s drawn")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from check_target("target", self.target, recipe)
            size, parts = recipe.train.batch_size, recipe.train.accumulate
            if size % parts == 0 and size // parts % 2:
                advice = f"make train.batch_size a multiple of {2 * parts}"
                yield "", f"micro-batches of {size // parts} cannot be halved; {advice}"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.mean_square: dict[str, Tensor] = {}
        self.gradients_seen = 0

    def usual_steps(self) -> int | None:
        return self.config.k

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c, (first, second), process = self.config, batch.halves(), discrete(ctx.process)
        half, other = ctx.select(slice(first.size)), ctx.select(slice(first.size, None))
        draws = [draw_step(b, of, k=c.k, min_time=c.min_time) for b, of in ((first, half), (second, other))]
        times, rng = (draws[0].t, draws[0].s), half.generators["sample"]
        (masks,) = process.draw_masks(draws[0].z_t, times, generator=rng) if c.centred else (None,)
        find_masks(process, [draw.z_t for draw in draws], [*(draw.masks for draw in draws), masks])

        # 1. Half the batch: the gradient of the teacher's loss on the student's samples, and the direction nu.
        step = student_step(first, half, draws[0], grad=False)
        gradient = ctx.ranks.mean(self._teacher_gradient(first, step, half, masks))
        direction = self._precondition(gradient)

        # 2. The other half: the change of the teacher's log-probabilities along nu at the student's z_s.
        step = student_step(second, other, draws[1], grad=True)
        change = directional_derivative(ctx.denoiser("teacher"), direction, step.z_s, step.s, second.cond)

        # 3. The change of the teacher's loss, with the student's soft probabilities in the place of x.
        value = rowwise(_CHANGE, [step.prediction, change], where=change.where)
        weight = per_token(loss_weight(c, step.s, ctx.process.schedule))
        loss = c.step_size * ctx.mean(weight * value, batch=second)
        norm = torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt()
        metrics: dict[str, Any] = {"student_loss": loss.detach(), "teacher_gradient": norm}
        if ctx.diagnose:
            metrics["student_entropy"] = mean_entropy(step.prediction)
        return LossOutput(loss, metrics)

    def _teacher_gradient(
        self, batch: Batch, step: StudentStep, ctx: StepContext, masks: StepMasks | None
    ) -> dict[str, Tensor]:
        """grad_theta L on the student's samples, minus that on real data if centred; by parameter.

        It is a direction, not a loss, so it averages over all tokens, also if a step supervises fewer. The real data
        also pass through z_t, so that both gradients share much of their noise.

        Args:
            masks: places of their step, if they are drawn already.
        """
        teacher, weight = ctx.denoiser("teacher"), per_token(loss_weight(self.config, step.s, ctx.process.schedule))
        with torch.enable_grad(), _differentiable(teacher) as parameters:
            prediction = teacher(step.z_s, step.s, cond=batch.cond)
            soft = soft_targets(self.config.target, ctx.process)
            value = prediction.cross_entropy(step.prediction.shaped(Tensor.detach)) if soft else prediction.nll(step.x)
            loss = batch.mean(weight * value)
            if self.config.centred:
                process, rng = discrete(ctx.process), ctx.generators["sample"]
                if masks is None:
                    z_s = process.posterior_sample(batch.x0, step.z_t, step.t, step.s, generator=rng)
                else:
                    z_s = process.reveal(batch.x0, step.z_t, masks)
                loss = loss - batch.mean(weight * teacher(z_s, step.s, cond=batch.cond).nll(batch.x0))
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), grads, strict=True)}

    def _precondition(self, gradient: dict[str, Tensor]) -> dict[str, Tensor]:
        """nu = Lambda g, the step of Adam without momentum.

        The mean square includes g itself, as Adam's does. So no entry of nu exceeds (1 - beta)^-1/2, even for a
        parameter without a gradient so far. The price is a bias of the order of 1 - beta.
        """
        c = self.config
        if c.preconditioner == "none":
            return gradient
        self.gradients_seen += 1
        for name, g in gradient.items():
            before = self.mean_square.get(name, torch.zeros_like(g)).to(g.device)
            self.mean_square[name] = before.lerp(g.square(), 1 - c.beta)
        correction = 1 - c.beta**self.gradients_seen
        return {name: g / ((self.mean_square[name] / correction).sqrt() + c.eps) for name, g in gradient.items()}

    def state_dict(self) -> dict[str, object]:
        return {"gradients_seen": self.gradients_seen, "mean_square": self.mean_square}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.gradients_seen, self.mean_square = state["gradients_seen"], dict(state["mean_square"])


_CHANGE = Mean(lambda p, change: -change)
"""-sum_c p_c d_c: the change of the teacher's loss, d being that of its log-probabilities."""


@contextmanager
def _differentiable(denoiser: Denoiser) -> Iterator[dict[str, nn.Parameter]]:
    """The parameters of a frozen denoiser by name; within, `torch.autograd.grad` can differentiate by them."""
    parameters = dict(denoiser.named_parameters())
    frozen = [parameter for parameter in parameters.values() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)

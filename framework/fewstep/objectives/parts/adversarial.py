"""A discriminator of z_s, noised data against a student's states, and the student's loss by it.

The distribution of a student's z_s is compared with that of data, which no teacher's mistake limits. With the best
discriminator log D / (1 - D) = log q_data(z_s) - log q_student(z_s) at each s. So the gradient of
KL(q_student(z_s) || q_data(z_s)) is -E[log D / (1 - D) grad log q(z_s | z_t, p)]: the student's tokens are drawn, and
become likelier by what the discriminator says of the whole state (a score-function gradient, as in DiDi-Instruct,
arXiv 2509.25035). Its variance is that of the few tokens that one short step changes. It is 0 where both agree.

Shapes: B batch, L tokens, N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from fewstep.backbones.base import BACKBONES
from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.base import NOTHING
from fewstep.objectives.base import Batch, StepContext
from fewstep.objectives.matching.student_step import StudentStep
from fewstep.objectives.parts.shares import rows_of_share
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.condition import Condition
from fewstep.processes.base import TINY, DiscreteProcess, per_token


class Adversarial(Strict):
    """A discriminator on z_s, which is a second head on the auxiliary's trunk."""

    weight: float = Field(1.0, gt=0, description="weight of the student's loss by the discriminator")
    share: float = Field(
        0.25, gt=0, le=1, description="share of a batch that the discriminator learns from, noised data against z_s"
    )
    trunk: bool = Field(
        False, description="whether the discriminator trains the auxiliary's trunk too, and not its own head alone"
    )
    limit: float = Field(5.0, gt=0, description="largest log-ratio of data and student that moves the student")


@runtime_checkable
class Discriminating(Protocol):
    """A denoiser with a discriminator's head, such as `CriticDenoiser`."""

    def judge(
        self, x_t: Tensor, t: Tensor, s: Tensor | None = None, *, cond: Condition = NOTHING, trunk: bool = False
    ) -> tuple[Prediction, Tensor]: ...

    def score(
        self, x_t: Tensor, t: Tensor, s: Tensor | None = None, *, cond: Condition = NOTHING, trunk: bool = False
    ) -> Tensor: ...


def judged(config: Adversarial, step: StudentStep, batch: Batch, ctx: StepContext) -> tuple[Prediction, Tensor]:
    """The auxiliary's prediction at z_s and log D / (1 - D) there, [B], by one evaluation of its trunk."""
    return critic_of(ctx).judge(step.z_s, step.s, step.next_time, cond=batch.cond, trunk=config.trunk)


def student_values(config: Adversarial, step: StudentStep, log_ratio: Tensor, process: DiscreteProcess) -> Tensor:
    """The student's loss -r log q(z_s | z_t, p) of each token, [B, L]; r = log D / (1 - D) is a constant."""
    reward = log_ratio.detach().clamp(-config.limit, config.limit)
    return config.weight * reward[:, None] * _surprise(step, process)


def discriminator_loss(
    config: Adversarial, step: StudentStep, log_ratio: Tensor, batch: Batch, ctx: StepContext
) -> tuple[Tensor, dict[str, Tensor | tuple[Tensor, Tensor]]]:
    """Cross entropy of the discriminator over a share of the batch, a scalar; that and its accuracy for the log.

    Each chosen sample is there twice with the same s and label: as noised data, and as the student's z_s.
    """
    rows = rows_of_share(config.share, batch.size, ctx)
    few, s = ctx.select(rows), step.s[rows]
    noised = ctx.process.corrupt(batch.x0[rows], s, generator=few.generators["noise"]).x_t
    network, cond = critic_of(ctx), batch.cond.select(rows)
    real = network.score(noised, s, step.next_time[rows], cond=cond, trunk=config.trunk)
    made = log_ratio[rows]
    losses = 0.5 * (softplus(-real) + softplus(made)) / config.share
    # The same number at all tokens of a sample, so that samples weigh alike however many tokens they have.
    of_samples = losses.new_zeros(batch.size).index_copy(0, rows, losses)
    loss = ctx.mean(of_samples[:, None].expand(batch.x0.shape), batch=batch)
    right = (real > 0).sum() + (made < 0).sum()
    count = torch.tensor(2 * len(rows), device=ctx.device)
    return loss, {"discriminator_loss": loss.detach(), "discriminator_accuracy": (right, count)}


def check_adversarial(renoise: str, shaped: list[str], recipe: RecipeView) -> Iterator[tuple[str, str]]:
    """Refuse recipes in which a discriminator of z_s has no place.

    Args:
        renoise: how z_s is drawn.
        shaped: settings by which the distilled teacher is another one than the data's.
    """
    if BACKBONES.get(recipe.backbone.type).cls.uses_context:
        yield "adversarial", "a discriminator reads whole samples; use a backbone without blocks"
    if renoise != "posterior":
        yield "renoise", f"is '{renoise}', and the discriminator's student takes one step; set it to posterior"
    for key in shaped:
        yield key, "moves the teacher away from the data, to which the discriminator pulls; set it to 1"


def check_networks(ctx: StepContext) -> None:
    """Refuse an auxiliary that cannot tell the labels that the student is conditioned on, and sharded networks.

    Raises:
        UserError: it has no label input, or is sharded.
    """
    if ctx.ranks.together:
        raise UserError(
            "objective.adversarial: the discriminator's head needs a whole network, and they are sharded; set "
            "parallel.strategy to ddp"
        )
    if ctx.roles["student"].conditioned_on_labels and not ctx.roles["auxiliary"].conditioned_on_labels:
        raise UserError(
            "objective.adversarial: the student is conditioned on labels and the auxiliary is not, so its "
            "discriminator would compare all classes; give the auxiliary a label input"
        )


def critic_of(ctx: StepContext) -> Discriminating:
    """The auxiliary, which has the discriminator's head."""
    network = ctx.roles["auxiliary"]
    assert isinstance(network, Discriminating)
    return network


def _surprise(step: StudentStep, process: DiscreteProcess) -> Tensor:
    """-log q(z_s | z_t, p) of each token, [B, L], up to what does not depend on p; x is summed out."""
    if process.carry_over:
        return step.prediction.nll(step.z_s, where=step.prediction.where & (step.z_s != step.z_t))

    def value(log_p: Tensor, z_t: Tensor, z_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
        before, after = (process.evidence(z[:, None], time[:, None])[:, 0] for z, time in ((z_t, t), (z_s, s)))
        return -(log_p.double().exp() * after / before.clamp_min(TINY)).sum(1).clamp_min(TINY).log()

    times = [per_token(time).expand(step.z_t.shape) for time in (step.t, step.s)]
    return rowwise(value, [step.prediction], [step.z_t, step.z_s, *times], where=step.prediction.where)

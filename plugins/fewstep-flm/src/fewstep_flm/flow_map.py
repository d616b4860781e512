"""Flow-map distillation of a flow language model (FMLM, arXiv 2602.16813, the form of its later versions).

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.base import Denoiser
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, TINY, Process
from fewstep.runtime.streams import uniform
from fewstep_flm.onehot_gaussian import OneHotGaussian

_SMALLEST = 1e-30
"""Floor of a target's probabilities, whose logarithms are stored."""


@OBJECTIVES.register("flow_map")
class FlowMap(Objective):
    """One network D(z_t, t, s) learns where the flow of its teacher takes z_t: one evaluation goes from t to any s.

    The flow map is z_s = (1 - g_s) / (1 - g_t) z_t + (1 - (1 - g_s) / (1 - g_t)) D(z_t, t, s), so D is a mean of
    predictions along the way and stays on the simplex. The step input tells the student t - s; where it starts at zero,
    the student starts as its teacher at every s.

    A share of the batch has s = t, and the teacher's p(x | z_t) as its target (or the data). In the others the jump
    from t to s must be the two jumps over u = (t + s) / 2: the target is lam D(z_t, t, u) + (1 - lam) D(z_u, u, s) with
    lam = (1 - g_s)(g_u - g_t) / ((1 - g_u)(g_s - g_t)) and z_u the end of the first jump, of the student itself or of
    its average, without gradient. The loss is the cross entropy of target and D, a mean over all tokens.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher", step_input=True),
        "target": RoleSpec(trained=False, starts_from="student", step_input=True, refreshed=True),
    }
    spaces = frozenset({"continuous"})

    class Config(ComponentConfig):
        type: Literal["flow_map"] = "flow_map"
        diagonal: float = Field(0.5, gt=0, lt=1, description="share of a batch with s = t")
        diagonal_target: Literal["teacher", "data"] = Field(
            "teacher", description="what the student learns there: the teacher's probabilities, or the clean tokens"
        )
        boundary: float = Field(1 / 32, ge=0, lt=1, description="share of the other jumps that go from t = 1 to s = 0")
        target_decay: float = Field(
            0.0, ge=0, lt=1, description="decay of the student's average that makes the targets; 0: the student itself"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            process = PROCESSES.get(recipe.process.type).cls
            if process.space == "continuous" and not issubclass(process, OneHotGaussian):
                yield "", f"flow maps are of the process onehot_gaussian, not of {recipe.process.type}"
            if recipe.step_input is None:
                yield "", "the student must know the end of its jump; add `step_input: {form: linear}` to the recipe"
            elif getattr(recipe.step_input, "form", None) != "linear":
                yield (
                    "",
                    "step_input.form log tells short jumps from none, so that the student forgets the data at jumps of "
                    "any length; set step_input.form to linear",
                )
            if getattr(recipe.backbone, "time_conditioned", None) is False:
                yield "", "the student must know the start of its jump; set backbone.time_conditioned to true"

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        process = flow_process(ctx.process)
        same, others = self.halves(batch.size, ctx)
        t, s = self.jumps(batch.size, ctx)
        z_t = process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
        student = ctx.denoiser("student")(z_t, t.float(), s.float(), cond=batch.cond)
        with torch.no_grad():
            probs = torch.empty_like(z_t)
            probs[same] = self._on_diagonal(batch, ctx, z_t, t, same)
            probs[others] = two_jumps(process, ctx.denoiser("target"), z_t, t, s, batch.cond, others)
            target = TablePrediction(probs.clamp_min(_SMALLEST).log(), student.known, student.where)
        value = student.cross_entropy(target)
        metrics = {}
        if ctx.diagnose:
            excess = batch.counted((value - target.entropy()).detach())  # KL(target || D)
            counted = batch.counted(torch.ones_like(excess))
            metrics = {
                name: (excess[rows].sum(), counted[rows].sum())
                for name, rows in (("kl_diagonal", same), ("kl_jumps", others))
            }
        return LossOutput(ctx.mean(value), metrics)

    def halves(self, count: int, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Indices of the samples with s = t, and of the others: LongTensor [N] and [B - N].

        They alternate by their place in the batch, so that every part of a batch has its share of both.
        """
        ends = [int((ctx.place + place) * self.config.diagonal) for place in range(count + 1)]
        same = [place for place in range(count) if ends[place + 1] > ends[place]]
        others = [place for place in range(count) if ends[place + 1] == ends[place]]
        first, second = (torch.tensor(rows, dtype=torch.long, device=ctx.device) for rows in (same, others))
        return first, second

    def jumps(self, count: int, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Times t and s of each sample, float64 [B], s <= t.

        One number, spread over the batch, is the time t where s = t, and the length t - s elsewhere.
        """
        c, (same, _) = self.config, self.halves(count, ctx)
        level = ctx.sample_time(count, antithetic=True).double()
        start = uniform((count,), ctx.generators["time"], device=ctx.device)
        length = ((level - c.boundary) / (1 - c.boundary)).clamp_min(0)
        t = torch.where(level < c.boundary, 1.0, length + (1 - length) * start)
        s = torch.where(level < c.boundary, 0.0, t - length).clamp_min(0)
        return t.index_copy(0, same, level[same]), s.index_copy(0, same, level[same])

    def _on_diagonal(self, batch: Batch, ctx: StepContext, z_t: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Targets [N, L, V] of the rows with s = t."""
        if self.config.diagonal_target == "data":
            return one_hot(batch.x0[rows], z_t.shape[-1]).to(z_t.dtype)
        teacher = ctx.denoiser("teacher")
        return teacher(z_t[rows], t[rows].float(), cond=batch.cond.select(rows)).dense_probs().to(z_t.dtype)

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        target, student = ctx.roles["target"].state_dict(), ctx.roles["student"].state_dict()
        with torch.no_grad():
            for name, weight in target.items():
                weight.lerp_(student[name], 1 - self.config.target_decay)


def two_jumps(
    process: OneHotGaussian, network: Denoiser, z_t: Tensor, t: Tensor, s: Tensor, cond: Condition, rows: Tensor
) -> Tensor:
    """D of the jump from t to s that takes these rows where two jumps over u = (t + s) / 2 take them: [N, L, V]."""
    z_t, t, s, cond = z_t[rows], t[rows], s[rows], cond.select(rows)
    u = (t + s) / 2
    first = network(z_t, t.float(), u.float(), cond=cond).dense_probs()
    z_u = process.move(z_t, first, t, u)
    second = network(z_u, u.float(), s.float(), cond=cond).dense_probs()
    lam = share_of_first(process, t, u, s).to(z_t.dtype)
    return torch.lerp(second.to(z_t.dtype), first.to(z_t.dtype), lam)


def share_of_first(process: OneHotGaussian, t: Tensor, u: Tensor, s: Tensor) -> Tensor:
    """lam of two jumps from t over u to s, float64 [B, 1, 1]: their D is lam D(t, u) + (1 - lam) D(u, s)."""
    g_t, g_u, g_s = map(process.signal, (t, u, s))
    return ((1 - g_s) * (g_u - g_t) / ((1 - g_u) * (g_s - g_t)).clamp_min(TINY)).clamp(0, 1)


def flow_process(process: Process) -> OneHotGaussian:
    """The process, checked to have this flow.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(process, OneHotGaussian):
        raise ValueError(f"flow maps are of the process onehot_gaussian, not of {process.config.type}")
    return process

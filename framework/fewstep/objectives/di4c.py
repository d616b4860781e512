"""Di4C: distillation of dimensional correlations (arXiv 2410.08709).

Shapes: M latents, B batch, L tokens, V vocabulary, N predicted tokens of the batch, J sequences that are scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.latents import ComponentRows, LatentAverage, MixedStates
from fewstep.denoisers.network import evaluating, uncounted
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.condition import Condition
from fewstep.predictions.draws import expectation
from fewstep.processes.base import StepMasks, discrete, find_masks
from fewstep.runtime.streams import Randomness, repeated

_EARLIEST = 1e-5
"""Smallest t drawn."""


@dataclass(frozen=True)
class _Part:
    """Samples that are near data, or those that are not: their noised data z_t [B, L] at t [B], and M copies of it."""

    batch: Batch
    t: Tensor
    ctx: StepContext
    z_t: Tensor
    latents: int
    """M."""
    states: Tensor
    """The copies of z_t, [M B, L]."""
    times: tuple[Tensor, Tensor]
    """t and u of the copies, float64 [M B]."""
    masks: StepMasks | None = None
    """Places of the copies' step to u, if they are drawn already."""

    @property
    def where(self) -> Tensor:
        return self.ctx.process.to_predict(self.z_t)

    @property
    def cond(self) -> Condition:
        """Conditions of the copies."""
        return self.batch.cond.repeat(self.latents)

    def streams(self, name: str) -> Randomness:
        """Random numbers of the copies."""
        return repeated(self.ctx.generators[name], self.latents)


@OBJECTIVES.register("di4c")
class Di4C(Objective):
    """A mixture of products, E_latent prod_i p(x_i | z_t, latent), that learns the correlations of tokens.

    The latent is the noise input. Near data (t below `delta`) each latent imitates the teacher. Elsewhere the student
    at t learns two joint distributions: that of a teacher's step to u followed by its own prediction, and that of the
    data. It learns them through the correlation term L(x) = log p(x) - sum_i log p_i(x_i), while its marginals learn
    those of the teacher and of u (arXiv 2410.08709, sections 3 and 4, with marginals as control variates). The loss
    sums over tokens and averages over the batch.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", latents="draw"),
        "student": RoleSpec(starts_from="teacher", adapters=True),
    }
    per_token = False

    class Config(ComponentConfig):
        type: Literal["di4c"] = "di4c"
        latents: int = Field(16, ge=2, description="latents drawn to estimate the mixture in a step")
        step: float = Field(1 / 16, gt=0, le=1, description="longest step of the teacher from t to u; at most t / 2")
        delta: float = Field(0.02, ge=0, lt=1, description="times below this are near data")
        near_share: float = Field(0.3, ge=0, le=1, description="share of the samples that are near data")
        data_weight: float = Field(0.1, ge=0, description="of the correlations of data, times sigmoid(20 (t - 1/2))")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if recipe.noise_input is None:
                yield "type", "the mixture's latent is the noise input; add `noise_input: {type: pyramid}`"

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t = ctx.sample_time(batch.size)
        # The first samples of the step's batch are near data.
        count = min(max(round(c.near_share * (ctx.whole or batch.size)) - ctx.place, 0), batch.size)
        is_near = torch.arange(batch.size, device=ctx.device) < count
        t = torch.where(is_near, c.delta * t, c.delta + (1 - c.delta) * t).clamp_min(_EARLIEST)
        near, far = self._draw(batch, t, slice(0, count), ctx), self._draw(batch, t, slice(count, batch.size), ctx)
        (masks,) = discrete(ctx.process).draw_masks(far.states, far.times, generator=far.streams("sample"))
        far = replace(far, masks=masks)
        find_masks(ctx.process, [near.z_t, far.z_t], [masks])
        total = torch.zeros((), device=ctx.device)
        metrics: dict[str, Tensor] = {}
        for part, of_part in ((near, self._imitate), (far, self._correlate)):
            if len(part.t):
                value, numbers = of_part(part)
                total, metrics = total + value, metrics | numbers
            elif ctx.ranks.together:
                with _uncounted(ctx) as idle:
                    value, _ = of_part(self._draw(batch, t, slice(0, 1), idle, select=False))
                total = total + 0 * value
        return LossOutput(total / batch.size, {name: value.detach() for name, value in metrics.items()})

    def _draw(self, batch: Batch, t: Tensor, samples: slice, ctx: StepContext, select: bool = True) -> _Part:
        """These samples noised to t, and copies of them.

        Args:
            select: whether `ctx` has streams of the whole batch, and not of these samples alone.
        """
        c, ctx, t = self.config, ctx.select(samples) if select else ctx, t[samples]
        part = Batch(batch.x0[samples], batch.cond.select(samples))
        z_t = ctx.process.corrupt(part.x0, t, generator=ctx.generators["noise"]).x_t
        states, u = z_t.repeat(c.latents, 1), t - torch.minimum(torch.full_like(t, c.step), t / 2)
        times = t.repeat(c.latents).double(), u.repeat(c.latents).double()
        return _Part(part, t, ctx, z_t, c.latents, states, times)

    def _imitate(self, part: _Part) -> tuple[Tensor, dict[str, Tensor]]:
        """mean over latents of sum_i KL(teacher_i || student_i given the latent), summed over samples."""

        def value(student: Tensor, teacher: Tensor) -> Tensor:
            return expectation(teacher.detach(), teacher.detach() - student.mean(1))

        kl = rowwise(value, [self._mixture(part), self._teacher(part)], where=part.where).sum()
        return kl, {"near_divergence": kl / part.batch.size}

    def _correlate(self, part: _Part) -> tuple[Tensor, dict[str, Tensor]]:
        """Correlations of data and of the teacher's step, and both marginals, summed over samples.

        A correlation is a function of all tokens of a sequence, so rows are read twice: for the probabilities of the
        sequences' symbols, without gradient, and with the derivatives by these as constants.
        """
        c, m, batch, where = self.config, self.config.latents, part.batch, part.where
        sequences, later = self._later(part)
        student, teacher = self._mixture(part), self._teacher(part)
        ids = torch.cat((sequences, batch.x0[None])).permute(1, 2, 0)  # [B, L, J]

        def of_symbols(rows: Tensor, ids: Tensor) -> Tensor:
            return rows.gather(2, ids[:, None].expand(-1, m, -1)).double()  # [n, M, J]

        def divergences(rows: Tensor, *targets: Tensor) -> list[Tensor]:
            marginal = rows.logsumexp(1) - math.log(m)
            return [expectation(q.detach(), q.detach() - marginal) for q in targets]

        def first(rows: Tensor, q: Tensor, later: Tensor, ids: Tensor) -> Tensor:
            to_teacher = divergences(rows, q)[0].double()
            return torch.cat((of_symbols(rows, ids).flatten(1), to_teacher[:, None]), 1)

        def second(rows: Tensor, q: Tensor, later: Tensor, ids: Tensor, slopes: Tensor) -> Tensor:
            change = (slopes * of_symbols(rows, ids)).sum((1, 2))
            return torch.stack((*divergences(rows, q, later), -change)).sum(0)

        predictions = [student, teacher, later]
        with torch.no_grad():
            read = rowwise(first, predictions, [ids], where=where)
        log_p = read[..., :-1].unflatten(2, (m, -1)).requires_grad_()  # [B, L, M, J]
        terms = correlations(log_p)
        weight = c.data_weight * torch.sigmoid(20 * (part.t - 0.5))
        value = terms[:-1].mean(0).sum() + (weight * terms[-1]).sum()
        (slopes,) = torch.autograd.grad(value, log_p)
        loss = rowwise(second, predictions, [ids, slopes], where=where).sum()
        metrics = {"correlation": terms[-1].mean(), "divergence": read[..., -1].sum() / batch.size}
        return loss + ((slopes * log_p).sum() - value).detach(), metrics

    def _mixture(self, part: _Part) -> Prediction:
        """log p_i(. | z_t, latent) of fresh latents; its rows are [n, M, V]."""
        return ComponentRows(
            self._student(part, part.states, part.t.repeat(part.latents)), part.latents, where=part.where
        )

    def _student(self, part: _Part, z: Tensor, t: Tensor) -> Prediction:
        """Prediction of M B states, each with its own latent."""
        cond, rng, student = part.cond, part.streams("noise"), part.ctx.roles["student"]
        prediction: Prediction = student(z, t, torch.zeros_like(t), cond=cond, generator=rng)
        return prediction

    @torch.no_grad()
    def _teacher(self, part: _Part) -> Prediction:
        """The teacher's prediction; of a teacher with latents that of their mean."""
        teacher = part.ctx.denoiser("teacher")
        if teacher.has_latent:
            teacher = LatentAverage(teacher, part.latents)
        noise = part.ctx.generators["noise"]
        prediction: Prediction = teacher(part.z_t, part.t, cond=part.batch.cond, generator=noise)
        return prediction

    @torch.no_grad()
    def _later(self, part: _Part) -> tuple[Tensor, Prediction]:
        """Sequences x ~ student(z_u) with z_u by a teacher's step, ids [M, B, L], and the mixture's marginals there."""
        m, process, (now, then) = part.latents, discrete(part.ctx.process), part.times
        # A teacher with latents has one for each sequence, so that its tokens correlate.
        noise, rng = part.streams("noise"), part.streams("sample")
        prediction = part.ctx.roles["teacher"](part.states, now.float(), cond=part.cond, generator=noise)
        z_u = process.step_back(part.states, prediction, now, then, generator=rng, masks=part.masks)
        with evaluating(part.ctx.roles["student"]):
            later = self._student(part, z_u, then.float())
        marginals = MixedStates(later, m, where=part.where)
        return later.sample(generator=rng).view(m, *part.z_t.shape), marginals.shaped(Tensor.detach)


@contextmanager
def _uncounted(ctx: StepContext) -> Iterator[StepContext]:
    """Inputs for an evaluation that only keeps step with other ranks, whose sharded networks it is asked for too.

    It takes no draws of samples, and does not count.
    """
    source = torch.Generator(ctx.device).manual_seed(0)
    with ExitStack() as stack:
        for role in ctx.roles.values():
            stack.enter_context(uncounted(role))
        yield replace(ctx, generators=dict.fromkeys(ctx.generators, source))


def correlations(log_p: Tensor) -> Tensor:
    """L(x) = log E_latent prod_i p_i(x_i) - sum_i log E_latent p_i(x_i), [J, B]; 0 if the latent changes nothing.

    It is the difference of two sums of L logarithms, so they are float64.

    Args:
        log_p: log-probabilities of the tokens of sequences given each latent, float64 [B, L, M, J]; 0 at tokens that
            are not predicted.
    """
    size = math.log(log_p.shape[2])
    joint = log_p.sum(1).logsumexp(1) - size
    apart = (log_p.logsumexp(2) - size).sum(1)
    return (joint - apart).T

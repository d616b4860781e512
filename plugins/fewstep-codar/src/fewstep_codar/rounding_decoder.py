"""The second stage of CoDAR: a decoder learns to round what the denoiser leaves behind.

Shapes: B batch, L tokens, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.runtime.streams import normal, uniform
from fewstep_codar.embedding_denoising import misfits
from fewstep_codar.embedding_gaussian import embedding_process
from fewstep_codar.network import EmbeddingDenoiser, RoundingDenoiser
from fewstep_codar.settings import DecoderConfig


@OBJECTIVES.register("rounding_decoder")
class RoundingDecoder(Objective):
    """Cross entropy of the tokens given those before them and vectors of the whole sample; the teacher's weights stay.

    A share `denoised` of each batch has the vectors that the teacher predicts from real data noised to t ~ U(0,
    max_time). The others have clean embeddings with noise of standard deviation sigma ~ U(noise), one a sample. The
    student holds the teacher's weights and the decoder, so that it samples alone.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", network=EmbeddingDenoiser),
        "student": RoleSpec(starts_from="teacher", network=RoundingDenoiser),
    }
    spaces = frozenset({"continuous"})

    class Config(DecoderConfig):
        type: Literal["rounding_decoder"] = "rounding_decoder"
        denoised: float = Field(0.5, ge=0, le=1, description="share of a batch with vectors of the teacher")
        max_time: float = Field(0.3, gt=0, le=1, description="largest time that the teacher predicts from")
        noise: tuple[float, float] = Field(
            (0.0, 0.5), description="least and largest noise of the other vectors, whose numbers have mean square 1"
        )

        @field_validator("noise")
        @classmethod
        def _noise_is_a_range(cls, noise: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
            if not 0 <= noise[0] <= noise[1]:
                raise ValueError(f"noise is [least, largest], both at least 0, not {list(noise)}")
            return noise

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from misfits(recipe)
            width = getattr(recipe.backbone, "width", None)
            if reason := self.misfit(width if isinstance(width, int) else None):
                yield "heads", reason

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        student = ctx.roles["student"]
        assert isinstance(student, RoundingDenoiser)
        denoised, noised = self.halves(batch.size, ctx)
        vectors = self.vectors(batch, ctx, denoised, noised)
        value = student.decode(batch.x0, vectors).nll(batch.x0)
        loss, metrics = ctx.mean(value), {}
        if ctx.diagnose:
            costs = batch.counted(value.detach())
            counted = batch.counted(torch.ones_like(costs))
            parts = (("nll_denoised", denoised), ("nll_noised", noised))
            metrics = {name: (costs[rows].sum(), counted[rows].sum()) for name, rows in parts if len(rows)}
        return LossOutput(loss, metrics)

    def halves(self, count: int, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Indices of the samples with vectors of the teacher, and of the others: LongTensor [N] and [B - N].

        They alternate by their place in the batch, so that every part of a batch has its share of both.
        """
        ends = [int((ctx.place + place) * self.config.denoised) for place in range(count + 1)]
        first = torch.tensor([after > before for before, after in pairwise(ends)], dtype=torch.bool)
        return first.nonzero()[:, 0].to(ctx.device), (~first).nonzero()[:, 0].to(ctx.device)

    @torch.no_grad()
    def vectors(self, batch: Batch, ctx: StepContext, denoised: Tensor, noised: Tensor) -> Tensor:
        """What the decoder reads, [B, L, D]."""
        c, process, x0 = self.config, embedding_process(ctx.process), batch.x0
        least, largest = c.noise
        sigma = least + (largest - least) * uniform((len(x0), 1, 1), ctx.generators["noise"], device=x0.device)
        clean = process.embed(x0)
        vectors = clean + sigma.float() * normal(clean.shape, ctx.generators["noise"], device=x0.device)
        t = c.max_time * ctx.sample_time(len(x0), antithetic=True)
        x_t = process.corrupt(x0, t, generator=ctx.generators["noise"]).x_t
        if len(denoised):
            teacher = ctx.denoiser("teacher")
            prediction = teacher(x_t[denoised], t[denoised], cond=batch.cond.select(denoised))
            vectors[denoised] = process.mean(prediction).to(vectors.dtype)
        return vectors

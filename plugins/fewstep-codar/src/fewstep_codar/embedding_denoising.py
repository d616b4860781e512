"""The first stage of CoDAR: a network learns the clean embeddings of noised ones.

Shapes: B batch, L tokens, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.processes.base import PROCESSES, TINY
from fewstep_codar.embedding_gaussian import EmbeddingGaussian, embedding_process
from fewstep_codar.network import EmbeddingDenoiser
from fewstep_codar.prediction import VectorPrediction


@OBJECTIVES.register("embedding_denoising")
class EmbeddingDenoising(Objective):
    """L = w(t) |e^(z_t) - e|^2 / D, a mean over tokens, for clean embeddings e of norm sqrt(D).

    With `process.predicts: v` it is the squared error of v, which is that of e divided by s^2. The optimum is the mean
    E[e | z_t] either way. Tokens take no part in this stage: they are embedded and never predicted.
    """

    roles: ClassVar = {"student": RoleSpec(network=EmbeddingDenoiser)}
    spaces = frozenset({"continuous"})

    class Config(ComponentConfig):
        type: Literal["embedding_denoising"] = "embedding_denoising"
        weighting: Literal["constant", "min_snr"] = Field(
            "constant", description="w: 1, or the least of a^2 / s^2 and snr_limit (arXiv 2303.09556)"
        )
        snr_limit: float = Field(5.0, gt=0, description="that limit")
        antithetic: bool = Field(True, description="spread the times of a batch evenly over [0, 1]")
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest time drawn")
        label_drop: float = Field(0.1, ge=0, le=1, description="share of samples whose label is withheld (label_input)")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from misfits(recipe)
            if self.weighting == "min_snr" and getattr(recipe.process, "predicts", "x0") == "v":
                yield "weighting", "the squared error of v has a weight of its own; set weighting to constant"

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c, process = self.config, embedding_process(ctx.process)
        t = c.min_time + (1 - c.min_time) * ctx.sample_time(batch.size, antithetic=c.antithetic)
        x_t = process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
        cond = batch.cond.with_labels_dropped(c.label_drop, ctx.generators["noise"])
        prediction = ctx.roles["student"](x_t, t, cond=cond, generator=ctx.generators["noise"])
        assert isinstance(prediction, VectorPrediction)
        error = (prediction.vectors - process.embed(batch.x0)).square().mean(-1)
        metrics = {"squared_error": batch.mean(error.detach())}
        return LossOutput(ctx.mean(self._weight(process, t) * error), metrics)

    def _weight(self, process: EmbeddingGaussian, t: Tensor) -> Tensor:
        """w(t), float32 [B, 1]."""
        a, s = (level[..., 0] for level in process.levels(t))
        if process.config.predicts == "v":
            return (s**-2).clamp_max(1 / TINY).float()
        if self.config.weighting == "constant":
            return torch.ones_like(s).float()
        return ((a / s.clamp_min(TINY)) ** 2).clamp_max(self.config.snr_limit).float()


def misfits(recipe: RecipeView) -> Iterator[tuple[str, str]]:
    """What a recipe lacks that networks of embeddings need, as `check_recipe` yields it."""
    process, name = PROCESSES.get(recipe.process.type).cls, recipe.process.type
    if process.space == "continuous" and not issubclass(process, EmbeddingGaussian):
        yield "", f"embeddings are of the process embedding_gaussian, not of {name}; set process to embedding_gaussian"
    if getattr(recipe.backbone, "time_conditioned", None) is False:
        yield "", "a state does not show how much noise is in it; set backbone.time_conditioned to true"
    if getattr(recipe.sampler, "guidance", 1.0) not in (0.0, 1.0):
        yield "", "guidance mixes rows of tokens, and this network predicts vectors; set sampler.guidance to 1"

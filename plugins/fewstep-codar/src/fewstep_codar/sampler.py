"""Sampling of embeddings, whose last estimate a decoder rounds.

Shapes: B batch, L tokens, V vocabulary, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES
from fewstep.predictions.base import RowMap
from fewstep.predictions.draws import draw_at
from fewstep.processes.base import PROCESSES
from fewstep.runtime.streams import uniform
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler
from fewstep_codar.embedding_gaussian import EmbeddingGaussian, embedding_process
from fewstep_codar.network import Rounder


@SAMPLERS.register("contextual_rounding")
class ContextualRounding(WalkSampler):
    """Steps of deterministic DDIM; the last estimate of the clean embeddings goes to the decoder, which draws tokens.

    `temperature`, `top_p` and `greedy_tail: 1` shape the draws of the decoder, and no step before. A sample of L tokens
    takes one evaluation for each step, and L of the decoder. `ancestral` takes the nearest embeddings instead.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(spaces=frozenset({"continuous"}))

    class Config(WalkConfig):
        type: Literal["contextual_rounding"] = "contextual_rounding"
        greedy_tail: int | None = Field(
            0, ge=0, le=1, description="1: the decoder takes the likeliest symbol instead of a draw"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            process = PROCESSES.get(recipe.process.type).cls
            if process.space != "continuous":  # another check says so
                return
            name, student = recipe.objective.type, OBJECTIVES.get(recipe.objective.type).cls.roles["student"]
            if not issubclass(process, EmbeddingGaussian):
                yield "", f"it rounds embeddings of the process embedding_gaussian, not of {recipe.process.type}"
            elif not issubclass(student.network, Rounder):
                yield (
                    "",
                    f"students of '{name}' have no decoder; train one with objective rounding_decoder, or set sampler "
                    "to ancestral, which takes the nearest embeddings",
                )

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        process = embedding_process(walk.denoiser.process)
        now, then = walk.times(x, step.t, step.s)
        prediction = walk.unshaped(x, now, then)
        if not step.last:
            return process.step_back(x, prediction, now, then, generator=walk.generator)
        if not isinstance(walk.denoiser, Rounder):
            raise ValueError("this sampler needs a denoiser with a decoder")
        vectors = walk.hold(process.mean(prediction), 0.0)
        levels = uniform(x.shape[:2], walk.generator, device=x.device)
        return round_in_order(walk.denoiser, vectors, levels, walk.shaping(step), walk.cond.prompt)


def round_in_order(
    rounder: Rounder, vectors: Tensor, levels: Tensor, shaping: Sequence[RowMap] = (), prompt: Tensor | None = None
) -> Tensor:
    """Tokens (LongTensor [B, L]) of clean vectors [B, L, D], each drawn after those before it.

    Args:
        levels: uniform float64 numbers [B, L], one for each draw.
        shaping: maps of each row before a draw.
        prompt: known tokens [B, L], -1 where a token is drawn; later ones are drawn after them.
    """
    progress, tokens, last = rounder.open_rounding(vectors), list[Tensor](), None
    for place in range(levels.shape[1]):
        rows = rounder.next_rows(progress, last)
        for row_map in shaping:
            rows = row_map(rows)
        last = draw_at(rows, levels[:, place])
        if prompt is not None:
            last = torch.where(prompt[:, place] >= 0, prompt[:, place], last)
        tokens.append(last)
    return torch.stack(tokens, 1)

"""Ancestral sampling in two stages.

Shapes: B batch, L tokens, S tokens a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from fewstep.component import ComponentConfig
from fewstep.condition import Condition
from fewstep.denoiser import NOTHING, Denoiser
from fewstep.guidance import guided
from fewstep.prediction import sample_categorical
from fewstep.samplers.base import SAMPLERS, Sampler, Samples, StepState
from fewstep.shaping import shape


@SAMPLERS.register("ancestral")
class AncestralSampler(Sampler):
    """Walks t from 1 to 0 in equal steps: x ~ Cat(prediction), then z_s ~ q(z_s | z_t, x).

    Both draws are separate, so a small step never multiplies a rare token's probability below the resolution
    of a random number. The last step ends at s = 0, where the posterior returns x. Guidance,
    then temperature and top-p, shape the first draw (arXiv 2603.20155, sections 2 and A.2). `posterior: plugged` is the
    sampler of traditional uniform diffusion, z_s ~ q(z_s | z_t, probabilities of x); for the masked process both are
    one.
    """

    class Config(ComponentConfig):
        type: Literal["ancestral"] = "ancestral"
        temperature: float = Field(1.0, gt=0, description="below 1 sharpens every draw of a clean token")
        top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest symbols that hold this mass")
        guidance: float = Field(
            1.0, ge=0, description="weight of classifier-free guidance by labels; other than 1 or 0 it doubles the NFE"
        )
        posterior: Literal["drawn", "plugged"] = Field(
            "drawn", description="draw x first, or put its probabilities into the posterior (models trained on it)"
        )

    @classmethod
    def check_recipe(cls, config: Any, recipe: Any) -> Iterator[tuple[str, str]]:
        if config.guidance != 1 and recipe.label_input is None:
            yield "guidance", "guidance is by labels; add `label_input: {}`"

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        count: int,
        *,
        steps: int,
        generator: Generator,
        cond: Condition = NOTHING,
        on_step: Callable[[StepState], None] | None = None,
    ) -> Samples:
        before = denoiser.nfe
        x = denoiser.process.prior((count, denoiser.length), device=denoiser.device, generator=generator)
        x = self._walk(denoiser, x, steps, cond, generator, on_step)
        return Samples(x, denoiser.nfe - before)

    def _walk(
        self,
        denoiser: Denoiser,
        x: Tensor,
        steps: int,
        cond: Condition,
        generator: Generator,
        on_step: Callable[[StepState], None] | None,
    ) -> Tensor:
        """From noise to clean tokens, both [B, L], or [B, S] for one block."""
        process, count, device = denoiser.process, x.shape[0], x.device
        for index in range(steps):
            t, s = 1 - index / steps, 1 - (index + 1) / steps
            now, then = (torch.full((count,), time, device=device, dtype=torch.float64) for time in (t, s))
            prediction = guided(
                denoiser, x, now.float(), then.float(), weight=self.config.guidance, cond=cond, generator=generator
            )
            prediction = shape(prediction, temperature_=self.config.temperature, top_p_=self.config.top_p)
            if self.config.posterior == "plugged" and not process.carry_over:
                rows = process.posterior_probs(prediction.dense_probs(), x, now, then)
                x = sample_categorical(rows.log(), generator)
            elif index == steps - 1:
                x = prediction.sample(generator=generator)
            else:
                x = process.step_back(x, prediction, now, then, generator=generator)
            if on_step is not None:
                on_step(StepState(index, t, s, x))
        return x

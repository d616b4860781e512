"""Psi-samplers: every step draws a share of the tokens from the forward process again.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from fewstep.runtime.streams import uniform
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("psi")
class PsiSampler(WalkSampler):
    """Takes the ancestral step for a share kappa of the tokens, and redraws the others.

    A redrawn token is drawn clean and noised to s:
    z_s ~ kappa E_x[q(z_s | z_t, x)] + (1 - kappa) E_x[q(z_s | x)] with x ~ prediction (psi-samplers, arXiv 2602.21185).
    Both parts preserve each token's distribution at s. kappa = 1 is `ancestral`; for the masked process kappa is
    1 - sigma / (1 - alpha_s) of ReMDM (arXiv 2503.00307, see `remdm`). Tokens redrawn in the same step do not see each
    other. Their share is 1 - kappa for steps of any length, so keep it small for many steps.
    """

    class Config(WalkConfig):
        type: Literal["psi"] = "psi"
        kappa: tuple[float, ...] = Field(
            (0.98,), min_length=1, max_length=3, description="share of ancestral tokens in each phase, noise first"
        )
        switches: tuple[float, ...] = Field(
            (), max_length=2, validate_default=True, description="times at which a phase of kappa ends, noise first"
        )

        @field_validator("kappa")
        @classmethod
        def _shares(cls, kappa: tuple[float, ...]) -> tuple[float, ...]:
            if not all(0 <= share <= 1 for share in kappa):
                raise ValueError("each share must lie between 0 and 1")
            return kappa

        @field_validator("switches")
        @classmethod
        def _between_phases(cls, switches: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
            phases = len(info.data.get("kappa", (*switches, 0)))
            if len(switches) != phases - 1:
                raise ValueError(f"{phases} phases of kappa take {phases - 1} times between them, not {len(switches)}")
            bounds = (1.0, *switches, 0.0)
            if not all(later < earlier for earlier, later in pairwise(bounds)):
                raise ValueError("times must fall from one phase to the next, between 1 and 0")
            return switches

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        process, prediction = walk.denoiser.process, walk.predict(x, step)
        if step.last:
            return prediction.sample(generator=walk.generator)
        now, then = walk.times(x, step.t, step.s)
        z = process.step_back(x, prediction, now, then, generator=walk.generator)
        kappa = self.kappa(step.t)
        if kappa == 1:
            return z
        redraw = uniform(x.shape, walk.generator, device=x.device) >= kappa
        clean = prediction.sample(generator=walk.generator, where=redraw)  # z_t itself at tokens known to be clean
        return torch.where(redraw, process.corrupt(clean, then, generator=walk.generator).x_t, z)

    def kappa(self, t: float) -> float:
        """Share of ancestral tokens in a step that starts at t."""
        phase = sum(t <= switch for switch in self.config.switches)
        return float(self.config.kappa[phase])

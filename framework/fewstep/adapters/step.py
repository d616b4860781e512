"""Step input: conditions a student on the length of its next step, so that one student can serve several NFE.

Like a noise input it is an adapter beside the backbone. So the teacher's weights fit, and a student starts as its
teacher if the projection starts at zero.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.layers import sinusoids
from fewstep.core.component import Strict
from fewstep.processes.base import per_token

SHORTEST = 2.0**-10
"""Shorter steps are clamped to this length where its logarithm is told."""
FASTEST = 10.0
"""Radians of the fastest sinusoid of a length from 0 to 1."""


class StepInputConfig(Strict):
    """A learned projection of the step's length, added to the token embedding."""

    form: Literal["log", "linear"] = Field(
        "log",
        description="sinusoids of log2(t - s), which tell short steps apart, or of t - s, where a short step is like "
        "none (flow maps)",
    )
    channels: int = Field(32, gt=1, description="number of these sinusoids")
    init_std: float = Field(0.0, ge=0, description="standard deviation of the projection's initial weights")


class StepInput(nn.Module):
    """Lengths t - s, [B] or for each token [B, L] -> residual [1, B, 1, D] or [1, B, L, D]."""

    def __init__(self, config: StepInputConfig, width: int) -> None:
        super().__init__()
        self.form, self.channels = config.form, config.channels
        self.project = nn.Linear(config.channels, width)
        nn.init.normal_(self.project.weight, std=config.init_std)
        nn.init.zeros_(self.project.bias)

    def forward(self, length: Tensor) -> Tensor:
        length = per_token(length)
        features = self._features(length.flatten())
        residual: Tensor = self.project(features.to(self.project.weight.dtype))
        return residual.view(1, *length.shape, -1)

    def _features(self, length: Tensor) -> Tensor:
        if self.form == "linear":
            return sinusoids(length, self.channels, scale=FASTEST, base=100.0)
        return sinusoids(length.clamp_min(SHORTEST).log2(), self.channels, scale=1.0, base=100.0)

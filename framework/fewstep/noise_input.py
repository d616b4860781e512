"""Noise input: fresh Gaussian noise at every evaluation, so that a masked generator can be random.

A masked state says little about the data that it came from, and the all-masked state nothing at all. Without a
further source of randomness the student's soft output is a fixed function of it and cannot correlate tokens
(arXiv 2603.20155, section 6.5). The paper leaves size, place and initialisation open; ours are the defaults below.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from fewstep.component import Strict


class NoiseInputConfig(Strict):
    """Gaussian noise a position, projected and added to the token embedding of the student."""

    channels: int = Field(32, gt=0, description="independent Gaussian numbers a position")
    init_std: float = Field(
        0.02,
        ge=0,
        description="standard deviation of the projection's initial weights; 0 starts at the teacher exactly",
    )


class NoiseInput(nn.Module):
    """eps ~ N(0, I) [B, L, channels], drawn anew at each call -> [B, L, D]."""

    def __init__(self, config: NoiseInputConfig, width: int) -> None:
        super().__init__()
        self.channels = config.channels
        self.project = nn.Linear(config.channels, width, bias=False)
        nn.init.normal_(self.project.weight, std=config.init_std)

    def forward(self, shape: tuple[int, int], generator: Generator | None = None) -> Tensor:
        weight = self.project.weight
        noise = torch.randn(*shape, self.channels, generator=generator, device=weight.device, dtype=weight.dtype)
        residual: Tensor = self.project(noise)
        return residual

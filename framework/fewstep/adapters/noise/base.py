"""Noise inputs: fresh noise at every evaluation, so that a masked generator can be random.

A masked state holds little information about its data, and the all-masked state none. Without another source of
randomness the student's soft output is a fixed function of the state and cannot correlate tokens (arXiv 2603.20155,
section 6.5). The paper leaves size, place and initialisation open.

A noise input is an adapter beside a backbone, not a part of it, so the teacher's weights fit the student's backbone. It
may also move the logits of each token's row by numbers that the backbone sees (`LogitNoise`).

Shapes: B batch, L tokens, D width, R places of injection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from fewstep.backbones.base import TokenSpace
from fewstep.core.component import Component, ComponentConfig
from fewstep.core.registry import Registry
from fewstep.predictions.logit_noise import LogitNoise
from fewstep.runtime.streams import Randomness


class NoiseInputConfig(ComponentConfig):
    """Settings of every noise input that projects its noise."""

    channels: int = Field(32, gt=0, description="independent Gaussian numbers a position")
    init_std: float = Field(
        0.1,
        ge=0,
        description="standard deviation of the projection's initial weights; 0 starts at the teacher exactly",
    )
    inject: Literal["once", "every_block"] = Field(
        "once", description="added to the token embedding, or before every block through a projection of its own"
    )


class Noise(NamedTuple):
    """One draw: residuals [R, B, L, D] of the backbone's stream, and noise at the logits of the same tokens, if any."""

    residual: Tensor
    logits: LogitNoise | None = None


class NoiseInput(nn.Module, Component, ABC):
    """Draws noise and maps it to residuals, which the backbone adds to its residual stream.

    One that also has noise at the logits sets `noises_logits` and overrides `draw`.

    Args:
        config: settings.
        tokens: the backbone's tokens (their number, and their grid if they are an image).
        width: D of the backbone.
        sites: places where the backbone adds a residual (`Backbone.residual_sites`).
    """

    noises_logits: ClassVar[bool] = False
    """Whether its draws have noise at the logits."""

    def __init__(self, config: ComponentConfig, *, tokens: TokenSpace, width: int, sites: int) -> None:
        nn.Module.__init__(self)
        Component.__init__(self, config)
        self.tokens = tokens
        self.width = width
        everywhere = isinstance(config, NoiseInputConfig) and config.inject == "every_block"
        self.places = sites if everywhere else 1

    def projection(self) -> nn.Linear:
        """A new linear map from `channels` numbers to all places at once."""
        assert isinstance(self.config, NoiseInputConfig)
        linear = nn.Linear(self.config.channels, self.places * self.width, bias=False)
        nn.init.normal_(linear.weight, std=self.config.init_std)
        return linear

    @abstractmethod
    def forward(self, count: int, generator: Randomness = None) -> Tensor:
        """Residuals [R, B, L, D] for `count` samples (B) from fresh noise; R is 1, or the backbone's sites."""

    def draw(self, count: int, generator: Randomness = None) -> Noise:
        """Residuals as of `forward`, with the noise at the logits that they tell the backbone of."""
        return Noise(self(count, generator))


NOISE_INPUTS: Registry[NoiseInput] = Registry("noise input", NoiseInput, "fewstep.adapters.noise")

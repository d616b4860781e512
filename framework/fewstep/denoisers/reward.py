"""Rewards of noised tokens, and denoisers whose samples a reward judges on the way.

Shapes: B batch, L tokens, S states.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fewstep.denoisers.base import NOTHING, Denoiser, DenoiserAround
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness


class Reward(Protocol):
    """How good noised tokens are; what an objective with a discriminator calls log D / (1 - D)."""

    def score(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Rewards [B].

        Args:
            x_t: noised ids [B, L], or one-hot rows [B, L, S] to take a gradient by.
            t: times [B].
            cond: labels, if the samples have any.
        """


class LogRatio:
    """log D / (1 - D), D the probability that a discriminator gives to its second class, real samples."""

    def __init__(self, discriminator: NetworkClassifier) -> None:
        self.discriminator = discriminator

    def score(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        """See `Reward`."""
        made, real = self.discriminator.log_probs(x_t, t, cond).unbind(1)
        return real - made


class RewardedDenoiser(DenoiserAround):
    """A denoiser with a reward beside it, for samplers that ask for one; it predicts what it predicts without.

    What the reward computes is not counted as an evaluation.
    """

    def __init__(self, denoiser: Denoiser, reward: Reward) -> None:
        super().__init__(denoiser)
        self.reward = reward

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        return self.denoiser.predict(x_t, t, s, cond, generator)

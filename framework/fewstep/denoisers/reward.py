"""Rewards of noised tokens, and denoisers with a reward that samplers use at each step.

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
    """Quality of noised tokens, for example log D / (1 - D) of a discriminator."""

    def score(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Rewards [B].

        Args:
            x_t: noised ids [B, L], or one-hot rows [B, L, S] for gradients by the tokens.
            t: times [B].
            cond: labels, if the samples have any.
        """


class LogRatio:
    """log D / (1 - D), where D is a discriminator's probability of its second class, real samples."""

    def __init__(self, discriminator: NetworkClassifier) -> None:
        self.discriminator = discriminator

    def score(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        """See `Reward`."""
        generated, real = self.discriminator.log_probs(x_t, t, cond).unbind(1)
        return real - generated


class RewardedDenoiser(DenoiserAround):
    """A denoiser and a reward, for samplers that need one; predictions are those of the denoiser.

    Evaluations of the reward are not counted.
    """

    def __init__(self, denoiser: Denoiser, reward: Reward) -> None:
        super().__init__(denoiser)
        self.reward = reward

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        return self.denoiser.predict(x_t, t, s, cond, generator)

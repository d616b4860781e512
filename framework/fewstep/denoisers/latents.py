"""A network with a noise input as the mixture that it is: predictions averaged over latents.

Shapes: M latents, B batch, L tokens, V vocabulary, N rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.condition import Condition
from fewstep.predictions.positions import known_mask, positions
from fewstep.runtime.streams import Randomness, repeated


class MixturePrediction(Prediction):
    """log of the mean of M predictions of the same tokens, row by row.

    Args:
        components: prediction of M copies of a batch, [M B, L], one copy after the other.
        count: M.
    """

    def __init__(self, components: Prediction, count: int, shaping: tuple[RowMap, ...] = ()) -> None:
        batch = len(components.known) // count
        super().__init__(components.known[:batch], components.where[:batch], shaping)
        self._components, self._count = components, count

    @property
    def vocab_size(self) -> int:
        return self._components.vocab_size

    def source(self, where: Tensor) -> Tensor:
        copies = positions(where).repeated(self._count)
        rows = self._components.source(known_mask(copies, where.device))
        return rows.unflatten(0, (self._count, -1)).transpose(0, 1)

    def to_log_probs(self, source: Tensor) -> Tensor:
        rows = self._components.rows(source.flatten(0, 1)).unflatten(0, (-1, self._count))
        return rows.logsumexp(1) - math.log(self._count)

    def chunk_rows(self) -> int:
        return max(1, self._components.chunk_rows() // self._count)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return MixturePrediction(self._components, self._count, shaping)


class LatentAverage(DenoiserAround):
    """E[x | z_t] of a denoiser with a noise input: the mean over `latents` fresh latents of its probabilities.

    One latent alone gives a random component of the mixture, and every token's probabilities of this component. The
    mean is unbiased for the marginals; its logarithm is low by about half the relative variance over M.

    Args:
        denoiser: its predictions bring no clock.
        latents: M; an evaluation takes M of the network.
    """

    def __init__(self, denoiser: Denoiser, latents: int) -> None:
        super().__init__(denoiser)
        self.latents = latents

    @property
    def has_latent(self) -> bool:
        return False

    @property
    def takes_token_times(self) -> bool:
        return self.denoiser.takes_token_times

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        count = self.latents
        states, now = torch.cat([x_t] * count), torch.cat([t] * count)
        then = None if s is None else torch.cat([s] * count)
        many = self.denoiser.predict(states, now, then, cond.repeat(count), repeated(generator, count))
        return MixturePrediction(many, count)

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
from fewstep.predictions.evaluation import carried_over
from fewstep.predictions.positions import known_mask, of_samples, positions
from fewstep.runtime.streams import Randomness, repeated


class MixturePrediction(Prediction):
    """log of the mean of M predictions of the same tokens, row by row.

    Args:
        components: prediction of M copies of a batch, [M B, L], one copy after the other.
        count: M.
        where: its predicted tokens, if a mask of them is there already (BoolTensor [B, L]).
    """

    def __init__(
        self, components: Prediction, count: int, shaping: tuple[RowMap, ...] = (), *, where: Tensor | None = None
    ) -> None:
        batch = len(components.known) // count
        where = of_samples(components.where, slice(batch)) if where is None else where
        super().__init__(components.known[:batch], where, shaping)
        self._components, self._count = components, count

    @property
    def vocab_size(self) -> int:
        return self._components.vocab_size

    def source(self, where: Tensor) -> Tensor:
        copies = positions(where).repeated(self._count)
        rows = self._components.source(known_mask(copies, where.device))
        return rows.unflatten(0, (self._count, -1)).transpose(0, 1)

    def to_log_probs(self, source: Tensor) -> Tensor:
        return self.components(source).logsumexp(1) - math.log(self._count)

    def components(self, source: Tensor) -> Tensor:
        """Rows of each component, [N, M, V]."""
        return self._components.rows(source.flatten(0, 1)).unflatten(0, (-1, self._count))

    def chunk_rows(self) -> int:
        return max(1, self._components.chunk_rows() // self._count)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return MixturePrediction(self._components, self._count, shaping, where=self.where)


class ComponentRows(MixturePrediction):
    """Rows [N, M, V] of all M components in the place of their mean's; for `rowwise` only."""

    def to_log_probs(self, source: Tensor) -> Tensor:
        return self.components(source)


class MixedStates(MixturePrediction):
    """log of the mean of M predictions from M states of the same samples; each state has known tokens of its own.

    The source has one more column, with the id of a known token or -1 (exact up to 2^24).

    Args:
        where: BoolTensor [B, L], tokens that are not known in all states.
    """

    def source(self, where: Tensor) -> Tensor:
        copies = positions(where).repeated(self._count)
        inner = self._components
        rows, ids = inner.source(known_mask(copies, where.device)), torch.where(inner.where, -1, inner.known)
        self._type = rows.dtype
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        rows = torch.cat((rows, copies.take(ids)[:, None].to(rows.dtype)), 1)
        return rows.unflatten(0, (self._count, -1)).transpose(0, 1)

    def components(self, source: Tensor) -> Tensor:
        flat = source.flatten(0, 1)
        rows = self._components.rows(flat[:, :-1].to(self._type))
        return carried_over(rows, flat[:, -1].round().long()).unflatten(0, (-1, self._count))

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return MixedStates(self._components, self._count, shaping, where=self.where)


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

"""Noise at the logits: rows of a prediction, moved by numbers that each token has of its own.

A noise input draws the numbers and brings the map (`adapters/noise/`). The numbers of a network are also its reader's:
an objective can let another prediction of the same tokens go by them (`NoisyPrediction.noise`), so that both networks
decide by common random numbers.

Shapes: B batch, L tokens, V vocabulary, M numbers a token, N selected rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.positions import nowhere, positions

NoiseMap = Callable[[Tensor, Tensor], Tensor]
"""Log-probabilities [N, V] and the numbers of their tokens [N, M] -> logits [N, V], which need not be normalised."""


@dataclass(frozen=True)
class LogitNoise:
    """Numbers [B, L, M] and what they do to the rows of their tokens."""

    numbers: Tensor
    move: NoiseMap

    def select(self, tokens: slice) -> LogitNoise:
        """The noise of these tokens of each sample."""
        return LogitNoise(self.numbers[:, tokens], self.move)


class NoisyPrediction(Prediction):
    """A prediction with noise at its logits; computed row by row.

    The source has M more columns, the numbers of the token. Row maps (temperature, top-p) act after the noise.

    Args:
        plain: the prediction without noise.
        noise: of the same tokens.
    """

    def __init__(self, plain: Prediction, noise: LogitNoise, shaping: tuple[RowMap, ...] = ()) -> None:
        super().__init__(plain.known, plain.where, shaping)
        self.plain, self.noise, self.clock = plain, noise, plain.clock
        empty = plain.source(nowhere(plain.where))
        self._shape, self._dtype = empty.shape[1:], empty.dtype

    @property
    def vocab_size(self) -> int:
        return self.plain.vocab_size

    def source(self, where: Tensor) -> Tensor:
        rows, numbers = self.plain.source(where).flatten(1), positions(where).take(self.noise.numbers)
        dtype = torch.promote_types(rows.dtype, numbers.dtype)
        return torch.cat((rows.to(dtype), numbers.to(dtype)), 1)

    def chunk_rows(self) -> int:
        return max(1, self.plain.chunk_rows() // 2)

    def to_log_probs(self, source: Tensor) -> Tensor:
        return self._logits(source).log_softmax(-1)

    def unnormalised(self, source: Tensor) -> Tensor:
        if self.shaping:
            return super().unnormalised(source)
        logits = self._logits(source)
        return (logits - logits.amax(-1, keepdim=True)).exp_()

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return NoisyPrediction(self.plain, self.noise, shaping)

    def _logits(self, source: Tensor) -> Tensor:
        count = self.noise.numbers.shape[-1]
        rows = source[:, :-count].to(self._dtype).unflatten(1, self._shape)
        return self.noise.move(self.plain.rows(rows), source[:, -count:].detach())

"""The two meanings of a network's output, and the exact way from one to the other.

`x_mean` is p(x_i | z_t), the mean of x. `leave_one_out` is p(x_i | z_t without position i), the optimum of losses on
posteriors (D3PM, UDLM, Duo). Given the tokens around it, z_i depends on x_i alone, so that

    p(x_i | z_t) is proportional to p(x_i | z_t without i) q(z_i | x_i).

Shapes: B batch, L tokens, V vocabulary, N selected rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.positions import nowhere, positions

Output = Literal["x_mean", "leave_one_out"]

Evidence = Callable[[Tensor, Tensor], Tensor]
"""Ids [N] and their times [N] -> q(z | x = c) up to a factor for each row, float64 [N, V]."""

_LEAST = 1e-30
"""Smallest ratio of two symbols' evidence: it stays positive at t = 0, where every symbol but one has none."""


class _Weighted(Prediction):
    """Rows of `inner`, which a subclass multiplies or divides by the evidence of z_t.

    Args:
        inner: prediction whose rows are read.
        evidence: of single tokens.
        z: ids [B, L].
        t: times [B, L].
    """

    def __init__(
        self, inner: Prediction, evidence: Evidence, z: Tensor, t: Tensor, shaping: tuple[RowMap, ...] = ()
    ) -> None:
        super().__init__(inner.known, inner.where, shaping)
        self._inner, self._evidence, self._z, self._t = inner, evidence, z, t
        self.clock = inner.clock
        empty = inner.source(nowhere(inner.where))
        self._shape, self._dtype = empty.shape[1:], empty.dtype

    @property
    def vocab_size(self) -> int:
        return self._inner.vocab_size

    def source(self, where: Tensor) -> Tensor:
        """Flat source of the inner rows with two more columns: id (exact up to 2^24) and time."""
        places, flat = positions(where), self._inner.source(where).flatten(1)
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
        return torch.cat((flat, *(places.take(x).to(flat.dtype)[:, None] for x in (self._z, self._t))), 1)

    def chunk_rows(self) -> int:
        return max(1, self._inner.chunk_rows() // 4)  # rows of evidence are float64

    def _split(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Source of the inner rows, and the logarithm of the evidence [N, V]."""
        z, t = source[:, -2].detach().round().long(), source[:, -1].detach()
        evidence = self._evidence(z, t)
        ratios = evidence / evidence.amax(1, keepdim=True)
        return source[:, :-2].to(self._dtype).unflatten(1, self._shape), ratios.clamp_min(_LEAST).log()


class LeaveOneOutPrediction(_Weighted):
    """p(x | z_t) of a prediction `output` that is leave-one-out; computed row by row.

    Row maps (temperature, top-p, the likeliest symbol) act on the leave-one-out rows, before the evidence.
    """

    def __init__(self, output: Prediction, evidence: Evidence, z: Tensor, t: Tensor) -> None:
        super().__init__(output, evidence, z, t, output.shaping)

    @property
    def output(self) -> Prediction:
        return self._inner

    def rows(self, source: Tensor) -> Tensor:
        inner, evidence = self._split(source)
        return _times(self._inner.rows(inner), evidence)

    def to_log_probs(self, source: Tensor) -> Tensor:
        inner, evidence = self._split(source)
        return _times(self._inner.to_log_probs(inner), evidence)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return self.around(self._inner.with_shaping(shaping))

    def around(self, output: Prediction) -> LeaveOneOutPrediction:
        """The same evidence for another leave-one-out prediction."""
        output.clock = self.clock
        return LeaveOneOutPrediction(output, self._evidence, self._z, self._t)


class WithoutEvidence(_Weighted):
    """Leave-one-out rows of a prediction of p(x | z_t); computed row by row."""

    def to_log_probs(self, source: Tensor) -> Tensor:
        inner, evidence = self._split(source)
        return _times(self._inner.rows(inner), -evidence)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return WithoutEvidence(self._inner, self._evidence, self._z, self._t, shaping)


def _times(log_p: Tensor, log_weights: Tensor) -> Tensor:
    return (log_p + log_weights.to(log_p.dtype)).log_softmax(-1)

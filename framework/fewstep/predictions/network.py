"""Predictions from a network's head, and from a dense table.

Shapes: B batch, L tokens, V vocabulary, N selected rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.positions import positions
from fewstep.predictions.sides import at_least_float32


class HeadPrediction(Prediction):
    """Hidden states [B, L, D] and the head that maps rows of them to logits."""

    def __init__(
        self,
        hidden: Tensor,
        head: Callable[[Tensor], Tensor],
        vocab_size: int,
        known: Tensor,
        where: Tensor,
        shaping: tuple[RowMap, ...] = (),
    ) -> None:
        super().__init__(known, where, shaping)
        self._hidden, self._head, self._vocab_size = hidden, head, vocab_size

    @property
    def hidden(self) -> Tensor:
        """Input of the head [B, L, D]."""
        return self._hidden

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def source(self, where: Tensor) -> Tensor:
        return positions(where).take(self._hidden)

    def to_log_probs(self, source: Tensor) -> Tensor:
        return self._logits(source).log_softmax(-1)

    def affine(self) -> tuple[Tensor, Tensor | None] | None:
        head = self._head
        if type(head) is nn.Linear:  # hooks and parametrisations make it another map
            return None if head._forward_hooks or head._forward_pre_hooks else (head.weight, head.bias)
        affine: Callable[[], tuple[Tensor, Tensor | None]] | None = getattr(head, "affine", None)
        return None if affine is None else affine()

    def unnormalised(self, source: Tensor) -> Tensor:
        if self.shaping:
            return super().unnormalised(source)
        logits = self._logits(source)  # a draw needs no normalised row
        return (logits - logits.amax(-1, keepdim=True)).exp_()

    def _logits(self, source: Tensor) -> Tensor:
        logits = self._head(source)
        return logits.to(at_least_float32(logits.dtype))

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return HeadPrediction(self._hidden, self._head, self._vocab_size, self.known, self.where, shaping)


class TablePrediction(Prediction):
    """A dense table of log-probabilities [B, L, V]: exact oracles and tests."""

    def __init__(self, table: Tensor, known: Tensor, where: Tensor, shaping: tuple[RowMap, ...] = ()) -> None:
        super().__init__(known, where, shaping)
        self._table = table

    @property
    def vocab_size(self) -> int:
        return self._table.shape[-1]

    def source(self, where: Tensor) -> Tensor:
        return positions(where).take(self._table)

    def to_log_probs(self, source: Tensor) -> Tensor:
        return source

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return TablePrediction(self._table, self.known, self.where, shaping)

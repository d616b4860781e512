"""Predictions of vectors.

Shapes: B batch, L tokens, V vocabulary, D numbers of a vector, N selected rows.
"""

from __future__ import annotations

from torch import Tensor

from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.positions import positions


class VectorPrediction(Prediction):
    """Clean vectors [B, L, D] of a network, and tokens by their distances to a table of embeddings.

    A token's probability is that of its embedding e given the vector e + N(0, I). The likeliest one is the nearest.
    Row maps change the probabilities and leave the vectors as they are.

    Args:
        table: embeddings [V, D] of equal norms.
    """

    def __init__(
        self, vectors: Tensor, table: Tensor, known: Tensor, where: Tensor, shaping: tuple[RowMap, ...] = ()
    ) -> None:
        super().__init__(known, where, shaping)
        self.vectors, self._table = vectors, table

    @property
    def vocab_size(self) -> int:
        return self._table.shape[0]

    def source(self, where: Tensor) -> Tensor:
        return positions(where).take(self.vectors)

    def to_log_probs(self, source: Tensor) -> Tensor:
        return (source.float() @ self._table.T).log_softmax(-1)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return VectorPrediction(self.vectors, self._table, self.known, self.where, shaping)

"""A Markov chain whose distribution is known, as a data source offers it to whoever computes with it.

Shapes: V vocabulary, C = V ** order contexts, numbered with the latest token as the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Chain:
    """Stationary chain: `initial` (float64 [C]) is the distribution of contexts, `transition` (float64 [C, V]) that of
    the token after each."""

    initial: Tensor
    transition: Tensor
    order: int


def normalised(rows: Tensor) -> Tensor:
    """Rows [..., K] divided by their sums."""
    return rows / rows.sum(-1, keepdim=True)

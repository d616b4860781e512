"""Divergences between two predictions, for distillers that imitate a teacher.

Shapes: B batch, L tokens, N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.row_losses import ForwardKL, Mean, Total

Divergence = Literal["reverse_kl", "forward_kl", "jeffreys", "total_variation", "squared_error"]

_REVERSE, _FORWARD = Mean(lambda p, q: p - q), ForwardKL()

_ROWS: Mapping[Divergence, Callable[..., Tensor]] = {
    "reverse_kl": _REVERSE,
    "forward_kl": _FORWARD,
    "jeffreys": Total((0.5, _REVERSE), (0.5, _FORWARD)),
    "total_variation": lambda p, q: 0.5 * (p.exp() - q.exp()).abs().sum(-1),
    "squared_error": lambda p, q: (p.exp() - q.exp()).square().sum(-1),
}


def divergence(name: Divergence, student: Prediction, teacher: Prediction, where: Tensor) -> Tensor:
    """Divergence of the student's probabilities p from the teacher's q at each token, [B, L]; zero outside `where`.

    `reverse_kl` is KL(p || q), `forward_kl` is KL(q || p), `jeffreys` the mean of both, `total_variation` half the sum
    of |p - q|, `squared_error` the sum of (p - q)^2. Gradients reach the student alone.

    Args:
        where: BoolTensor [B, L], positions that the student predicts.
    """
    return rowwise(_ROWS[name], [student, teacher.shaped(Tensor.detach)], where=where)

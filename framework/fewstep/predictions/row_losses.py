"""Losses of rows whose gradient is written out, so that it costs few passes over V symbols.

Any function of rows is a loss (`rowwise`). These three families are what distillers use most. Their gradient with
respect to the logits of the first prediction is formed together with the value; all other rows are constants.

Shapes: n rows, V vocabulary. Rows are log-probabilities [n, V].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.predictions.draws import expectation


class RowLoss(ABC):
    """A loss of rows p and of constants.

    `__call__` is the definition; `with_gradient` has the same values, for rows p without zeros.
    """

    constants = True
    """Whether the other rows are constants by definition. If not, `with_gradient` is used where they happen to be."""

    @abstractmethod
    def __call__(self, p: Tensor, *others: Tensor) -> Tensor:
        """Values [n] of rows p and of the other rows and extras."""

    @abstractmethod
    def with_gradient(self, p: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        """Values [n], and their gradient [n, V] by the logits of p, which is written over p."""


class CrossEntropy(RowLoss):
    """-sum_k w_k sum_c q_k,c log p_c - w log p_x: rows p, q_1, ..., q_K, and ids x [n] if w is not 0.

    The gradient is (sum of all weights) p - sum_k w_k q_k - w onehot(x).

    Args:
        soft: weights w_1, ..., w_K of the rows q.
        hard: weight w of the ids.
        constants: whether the rows q are constants.
    """

    def __init__(self, soft: tuple[float, ...] = (), hard: float = 0.0, *, constants: bool = True) -> None:
        self.soft, self.hard, self.constants = soft, hard, constants

    def __call__(self, p: Tensor, *others: Tensor) -> Tensor:
        targets, ids = self._targets(others)
        terms = [-w * expectation(q, p) for w, q in zip(self.soft, targets, strict=True)]
        if ids is not None:
            terms.append(-self.hard * p.gather(1, ids[:, None])[:, 0])
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]

    def with_gradient(self, p: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        targets, ids = self._targets(others)
        value = p.new_zeros(len(p)) if ids is None else -self.hard * p.gather(1, ids[:, None])[:, 0]
        target: Tensor | None = None
        for weight, q in zip(self.soft, targets, strict=True):
            share = q.exp()
            if weight != 1:
                share = share.mul_(weight)
            target = share if target is None else target.add_(share)
        if target is not None:
            value = value - row_dot(target, p)
        gradient, mass = p.exp_(), sum(self.soft) + self.hard
        if mass != 1:
            gradient.mul_(mass)
        if target is not None:
            gradient.sub_(target)
        if ids is not None:
            ids = ids[:, None]
            gradient.scatter_(1, ids, gradient.gather(1, ids) - self.hard)
        return value, gradient

    def _targets(self, others: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Rows q, and the ids if there are any."""
        rows = tuple(q.detach() if self.constants else q for q in others[: len(self.soft)])
        return rows, others[len(self.soft)] if self.hard else None


class Mean(RowLoss):
    """sum_c p_c r_c, the mean under p of a reward r [n, V] that is a function of rows p and of the others.

    The gradient is p (r - value): r may hold log p, whose own gradient has mean 0 under p, and is a constant otherwise.

    Args:
        reward: r, of all rows and extras.
    """

    def __init__(self, reward: Callable[..., Tensor]) -> None:
        self.reward = reward

    def __call__(self, p: Tensor, *others: Tensor) -> Tensor:
        return expectation(p, self.reward(p, *(q.detach() for q in others)))

    def with_gradient(self, p: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        reward = self.reward(p, *others)
        value = row_dot(p.exp_(), reward)
        return value, p.mul_(reward.sub_(value[:, None]))


class Total(RowLoss):
    """A weighted sum of losses of the same rows."""

    def __init__(self, *parts: tuple[float, RowLoss]) -> None:
        self.parts = parts

    def __call__(self, p: Tensor, *others: Tensor) -> Tensor:
        return torch.stack([weight * loss(p, *others) for weight, loss in self.parts]).sum(0)

    def with_gradient(self, p: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = torch.zeros((), device=p.device), None
        for weight, loss in self.parts:
            one, change = loss.with_gradient(p.clone(), *others)
            value, change = value + weight * one, change.mul_(weight)
            gradient = change if gradient is None else gradient.add_(change)
        assert gradient is not None
        return value, gradient


class ForwardKL(CrossEntropy):
    """KL(q || p) = sum_c q_c (log q_c - log p_c) of constants q."""

    def __init__(self) -> None:
        super().__init__((1.0,))

    def __call__(self, p: Tensor, *others: Tensor) -> Tensor:
        return super().__call__(p, *others) + expectation(others[0].detach(), others[0].detach())

    def with_gradient(self, p: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = super().with_gradient(p, *others)
        return value + expectation(others[0], others[0]), gradient


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """sum_c a_c b_c of each row [n, V] -> [n], without a product [n, V] in memory."""
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0]

"""Losses by which D-MMD compares student, teacher and auxiliary.

A loss form is a discrepancy L(x, q) between a clean token and a prediction, linear in x up to a constant. The
student's loss is L(p, teacher) - L(p, auxiliary), with its soft probabilities p in the place of x. The auxiliary's is
L(x, auxiliary) + r L(teacher, auxiliary) (arXiv 2603.20155, eq. 9).

Shapes: B batch, L tokens, n rows, V vocabulary. All values are [B, L], zero at tokens that are not predicted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.row_losses import CrossEntropy, Mean
from fewstep.processes.base import TINY, DiscreteProcess, per_token, posterior_rows

LossName = Literal["cross_entropy", "squared_error", "posterior"]


class MatchingLoss(ABC):
    """Row-wise comparison of predictions of the same tokens."""

    @abstractmethod
    def student(self, student: Prediction, auxiliary: Prediction, teacher: Prediction) -> Tensor:
        """L(p, teacher) - L(p, auxiliary); gradient reaches the student's probabilities p alone."""

    def fit(
        self,
        target: Prediction | Tensor,
        auxiliary: Prediction,
        teacher: Prediction | None = None,
        regulariser: float = 0.0,
    ) -> Tensor:
        """L(target, auxiliary) + r L(teacher, auxiliary), in one pass of the auxiliary's head.

        Args:
            target: ids [B, L], or a prediction.
            auxiliary: the only one to get gradient.
            teacher: None for the first term alone.
            regulariser: r.
        """
        soft, hard = ([], [target]) if isinstance(target, Tensor) else ([target], [])
        weights = [1.0] * len(soft)
        if teacher is not None and regulariser:
            soft, weights = [*soft, teacher], [*weights, regulariser]
        return self._fit(auxiliary, soft, tuple(weights), hard)

    @abstractmethod
    def _fit(
        self, auxiliary: Prediction, soft: list[Prediction], weights: tuple[float, ...], hard: list[Tensor]
    ) -> Tensor:
        """sum_k w_k L(soft_k, auxiliary) + L(hard, auxiliary), of ids `hard` if there are any."""


class CrossEntropyLoss(MatchingLoss):
    """L(x, q) = -log q_x: the loss of D-MMD (eq. 11, 12)."""

    def student(self, student: Prediction, auxiliary: Prediction, teacher: Prediction) -> Tensor:
        return rowwise(_LOG_RATIO, [student, auxiliary, teacher], where=teacher.where)

    def _fit(
        self, auxiliary: Prediction, soft: list[Prediction], weights: tuple[float, ...], hard: list[Tensor]
    ) -> Tensor:
        form = CrossEntropy(weights, hard=float(len(hard)))
        return rowwise(form, [auxiliary, *soft], hard, where=auxiliary.where)


class SquaredErrorLoss(MatchingLoss):
    """L(x, q) = |x - q|^2 on probabilities: the continuous ancestor (arXiv 2406.04103; eq. 6-8).

    The student's loss is half of L's difference, p^T (q_auxiliary - q_teacher), as in arXiv 2406.04103.
    """

    def student(self, student: Prediction, auxiliary: Prediction, teacher: Prediction) -> Tensor:
        return rowwise(_GAP, [student, auxiliary, teacher], where=teacher.where)

    def _fit(
        self, auxiliary: Prediction, soft: list[Prediction], weights: tuple[float, ...], hard: list[Tensor]
    ) -> Tensor:
        def value(a: Tensor, *others: Tensor) -> Tensor:
            shares = [(w, q.detach().exp()) for w, q in zip(weights, others, strict=False)]
            shares += [(1.0, one_hot(x, a.shape[1])) for x in others[len(weights) :]]
            return sum_of(w * (a.exp() - share).square().sum(1) for w, share in shares)

        return rowwise(value, [auxiliary, *soft], hard, where=auxiliary.where)


@dataclass(frozen=True)
class PosteriorLoss(MatchingLoss):
    """L(x, q) = cross entropy of the posteriors pi(x) and pi(q) of one short step from s (eq. of appendix D).

    It is for teachers trained on the posterior, and reads their leave-one-out output. pi(x) is q(z_{s-ds} | z_s, x)
    with probabilities plugged in for x. For the masked process it is the cross entropy times the probability of a
    reveal.

    Args:
        process: defines the posterior.
        z_s: ids [B, L].
        s: times [B] or [B, L].
        step: ds, the length of the step; it ends at 0 at the latest.
    """

    process: DiscreteProcess
    z_s: Tensor
    s: Tensor
    step: float

    def student(self, student: Prediction, auxiliary: Prediction, teacher: Prediction) -> Tensor:
        def value(p: Tensor, a: Tensor, q: Tensor, z: Tensor, s: Tensor) -> Tensor:
            gap = self._log(a, z, s) - self._log(q, z, s)
            return (self._rows(p, z, s) * gap.detach()).sum(1) / self.step

        predictions = [prediction.output for prediction in (student, auxiliary, teacher)]
        return rowwise(value, predictions, self._extras(), where=teacher.where)

    def _fit(
        self, auxiliary: Prediction, soft: list[Prediction], weights: tuple[float, ...], hard: list[Tensor]
    ) -> Tensor:
        def value(a: Tensor, *others: Tensor) -> Tensor:
            rows, (z, s, *ids) = others[: len(soft)], others[len(soft) :]
            shares = [(w, q.detach()) for w, q in zip(weights, rows, strict=True)]
            shares += [(1.0, one_hot(x, a.shape[1]).double().log()) for x in ids]
            log_a = self._log(a, z, s)
            return sum_of(-w * (self._rows(q, z, s) * log_a).sum(1) for w, q in shares) / self.step

        predictions = [prediction.output for prediction in (auxiliary, *soft)]
        return rowwise(value, predictions, [*self._extras(), *hard], where=auxiliary.where)

    def _extras(self) -> list[Tensor]:
        return [self.z_s, per_token(self.s).expand(self.z_s.shape)]

    def _rows(self, log_p: Tensor, z: Tensor, s: Tensor) -> Tensor:
        """pi of rows of log-probabilities: float64 [n, S]."""
        return posterior_rows(self.process, log_p.exp(), z, s, (s - self.step).clamp_min(0.0))

    def _log(self, log_p: Tensor, z: Tensor, s: Tensor) -> Tensor:
        return self._rows(log_p, z, s).clamp_min(TINY).log()


_LOG_RATIO = Mean(lambda p, a, q: a - q)
_GAP = Mean(lambda p, a, q: a.exp() - q.exp())


def sum_of(values: Iterable[Tensor]) -> Tensor:
    """Sum of at least one tensor of a shape."""
    return torch.stack(list(values)).sum(0)


def matching_loss(name: LossName, process: DiscreteProcess, z_s: Tensor, s: Tensor, step: float) -> MatchingLoss:
    """The loss of that name, for tokens z_s at times s."""
    if name == "posterior":
        return PosteriorLoss(process, z_s, s, step)
    return SquaredErrorLoss() if name == "squared_error" else CrossEntropyLoss()


def mean_log_ratio(auxiliary: Prediction, teacher: Prediction) -> Tensor:
    """Mean over symbols of |log auxiliary - log teacher| [B, L]; symbols of probability 0 under either do not count."""

    def gap(a: Tensor, q: Tensor) -> Tensor:
        possible = a.isfinite() & q.isfinite()
        return torch.where(possible, (a - q).abs(), 0.0).sum(1) / possible.sum(1).clamp_min(1)

    return rowwise(gap, [auxiliary, teacher], where=teacher.where)

"""Diagnostics of a distillation, by bins of time.

The losses of student and auxiliary say little: both stay near a constant for good and bad samples. Entropies and
divergences show three things: whether the student becomes confident (its output entropy falls below the teacher's,
arXiv 2603.20155, table 6), at which times the auxiliary differs from the teacher, and whether diversity is lost. Each
costs further passes over rows of V symbols, so objectives call this only in steps that diagnose.

Shapes: B batch, L tokens. Values are pairs (sum, count), for means over batches of unequal content.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.objectives.matching.losses import mean_log_ratio
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.draws import expectation
from fewstep.processes.base import per_token

BINS = 4
"""Equal parts of [0, 1]."""

Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def diagnose(student: Prediction, teacher: Prediction, auxiliary: Prediction, t: Tensor, s: Tensor) -> dict[str, Pair]:
    """Entropy of the student by bins of t; entropy of the teacher, KL(auxiliary || teacher) and log-ratio by bins of s.

    The log-ratio is the mean of |log auxiliary - log teacher|. Entropy of the student and log-ratio also at all times.

    Args:
        student: from z_t.
        teacher: from z_s, shaped as it is distilled.
        auxiliary: from z_s.
        t: times [B] or [B, L].
        s: times [B] or [B, L].
    """

    def divergence(a: Tensor, q: Tensor) -> Tensor:
        return expectation(a, a - q.masked_fill(q.isneginf(), -1e4))

    kl, entropy = rowwise(divergence, [auxiliary, teacher], where=teacher.where), student.entropy()
    ratio = mean_log_ratio(auxiliary, teacher)
    return {
        "student_entropy": (entropy.sum(), student.where.sum()),
        "log_ratio": (ratio.sum(), teacher.where.sum()),
        **by_time("student_entropy", entropy, student.where, t),
        **by_time("teacher_entropy", teacher.entropy(), teacher.where, s),
        **by_time("kl", kl, teacher.where, s),
        **by_time("log_ratio", ratio, teacher.where, s),
    }


@torch.no_grad()
def mean_entropy(prediction: Prediction) -> Pair:
    """Entropy of the predicted tokens, as sum and count."""
    return prediction.entropy().sum(), prediction.where.sum()


def by_time(name: str, values: Tensor, where: Tensor, time: Tensor) -> dict[str, Pair]:
    """Sums and counts of `values` [B, L] at the true positions of `where`, a bin of `time` ([B] or [B, L]) each."""
    bins = (time * BINS).long().clamp(0, BINS - 1)
    pairs = {}
    for index in range(BINS):
        inside = where & (per_token(bins) == index)
        label = f"{name}/{index / BINS:g}-{(index + 1) / BINS:g}"
        pairs[label] = ((values * inside).sum(), inside.sum())
    return pairs

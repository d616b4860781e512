"""Classifier-free guidance: a label's effect on a prediction, multiplied by a weight (arXiv 2412.10193, D-CFG).

Shapes: B batch, L tokens, V vocabulary, N selected rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.denoisers.base import Denoiser
from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.condition import Condition
from fewstep.predictions.evidence import LeaveOneOutPrediction
from fewstep.runtime.streams import Randomness

_LOWEST = -1e4
"""Log-probability that stands for probability 0 in a ratio."""


class GuidedPrediction(Prediction):
    """log p = log p_none + w (log p_label - log p_none), renormalised; computed row by row.

    This is p_label^w p_none^(1 - w), the guidance of arXiv 2412.10193 for masked diffusion. Symbols with
    probability 0 in the labelled prediction keep it. Both predictions must have the same known tokens.

    Args:
        labelled: prediction with the label.
        plain: prediction of the same tokens by the same network without a label.
        weight: w > 0; 1 gives `labelled`, and more than 1 amplifies the effect of the label.
    """

    def __init__(
        self, labelled: Prediction, plain: Prediction, weight: float, shaping: tuple[RowMap, ...] = ()
    ) -> None:
        super().__init__(labelled.known, labelled.where, shaping)
        self._labelled, self._plain, self._weight = labelled, plain, weight
        self.clock = labelled.clock

    @property
    def vocab_size(self) -> int:
        return self._labelled.vocab_size

    def source(self, where: Tensor) -> Tensor:
        return torch.stack((self._labelled.source(where), self._plain.source(where)), 1)

    def to_log_probs(self, source: Tensor) -> Tensor:
        labelled, plain = self._labelled.rows(source[:, 0]), self._plain.rows(source[:, 1])
        base = plain.clamp_min(_LOWEST)
        guided = base + self._weight * (labelled.clamp_min(_LOWEST) - base)
        return guided.masked_fill(labelled.isneginf(), -float("inf")).log_softmax(-1)

    def chunk_rows(self) -> int:
        return max(1, super().chunk_rows() // 2)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return GuidedPrediction(self._labelled, self._plain, self._weight, shaping)


def guided(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    s: Tensor | None = None,
    *,
    weight: float,
    cond: Condition,
    generator: Randomness = None,
) -> Prediction:
    """The denoiser's prediction with guidance: two evaluations, or one if the weight is 1 (label) or 0 (no label).

    Args:
        weight: see `GuidedPrediction`.
        cond: has labels, unless the weight is 1.

    All other arguments are those of `Denoiser.forward`.
    """
    if weight == 1:
        return denoiser(x_t, t, s, cond=cond, generator=generator)
    if weight == 0:
        return denoiser(x_t, t, s, cond=cond.without_labels(), generator=generator)
    labelled = denoiser(x_t, t, s, cond=cond, generator=generator)
    plain = denoiser(x_t, t, s, cond=cond.without_labels(), generator=generator)
    if isinstance(labelled, LeaveOneOutPrediction):  # the evidence is a factor of both, and so of the result
        return labelled.around(GuidedPrediction(labelled.output, plain.output, weight))
    return GuidedPrediction(labelled, plain, weight)

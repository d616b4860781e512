"""Exact autoregressive teachers of enumerable sources, and the student that computes what they draw.

Shapes: B batch, L tokens, V vocabulary, N = V ** L sequences.
"""

from __future__ import annotations

import torch
from fewstep_gumbel import drawn_by
from fewstep_gumbel.condition import noise_of
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.denoisers.base import Denoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import Process
from fewstep.runtime.streams import Randomness


def next_rows(distribution: Tensor, x: Tensor) -> Tensor:
    """log p(v | x_<i) of each place, float64 [B, L, V]; even where the text before has probability 0."""
    rows = []
    for place in range(distribution.ndim):
        joint = distribution.flatten(place + 1).sum(-1) if place + 1 < distribution.ndim else distribution
        row = joint[tuple(x[:, i] for i in range(place))] if place else joint.expand(len(x), -1)
        total = row.sum(-1, keepdim=True)
        rows.append(torch.where(total > 0, row / total.clamp_min(1e-300), 1 / joint.shape[-1]))
    return torch.stack(rows, 1).log()


class ExactTeacher(Denoiser):
    """p(x_i | x_<i) of a distribution (float64 [V] * L), in one evaluation from the context."""

    def __init__(self, process: Process, distribution: Tensor) -> None:
        super().__init__(process, distribution.ndim, block_size=1)
        self.distribution = distribution

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        assert cond.context is not None
        return TablePrediction(next_rows(self.distribution, cond.context), x_t, self.process.to_predict(x_t))


class ExactStudent(Denoiser):
    """Draws each masked token by its noise from what the teacher says after the tokens before it: no chance is left.

    It remembers the noise that it was asked with.
    """

    def __init__(self, process: Process, distribution: Tensor) -> None:
        super().__init__(process, distribution.ndim)
        self.distribution, self.asked = distribution, list[Tensor | None]()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        noise, masked = noise_of(cond), self.process.to_predict(x_t)
        self.asked.append(noise)
        assert noise is not None
        x = x_t.masked_fill(masked, 0)
        for place in range(self.length):
            drawn = drawn_by(next_rows(self.distribution, x)[:, place], noise[:, place])
            x[:, place] = torch.where(masked[:, place], drawn, x[:, place])
        log_p = one_hot(x, self.process.vocab_size).double().clamp_min(1e-30).log()
        return TablePrediction(log_p, x_t, masked)

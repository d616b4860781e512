"""The exact flow map of a source whose posterior is known: what a student of `flow_map` should learn.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.runtime.streams import Randomness
from fewstep_flm.flow_map import flow_process, share_of_first


class ExactFlowMap(DenoiserAround):
    """D(z_t, t, s) of the flow that a denoiser E[x | z_t] defines, by `steps` Euler steps in equal times.

    Args:
        denoiser: of the process onehot_gaussian.
        steps: number of Euler steps of every jump; each evaluates the denoiser.
    """

    def __init__(self, denoiser: Denoiser, steps: int = 32) -> None:
        super().__init__(denoiser)
        self.flow, self.steps = flow_process(denoiser.process), steps

    @property
    def takes_token_times(self) -> bool:
        return self.denoiser.takes_token_times

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        if s is None:
            raise ValueError("a flow map goes to a time: call it with s")
        x, mean, t, s = x_t.double(), torch.zeros_like(x_t, dtype=torch.float64), t.double(), s.double()
        now = t
        for step in range(1, self.steps + 1):
            then = t + (s - t) * (step / self.steps)
            probs = self.denoiser(x, now, cond=cond, generator=generator).dense_probs()
            first = share_of_first(self.flow, t, now, then)
            mean = first * mean + (1 - first) * probs
            x, now = self.flow.move(x, probs, now, then), then
        return TablePrediction(mean.log(), self.flow.to_ids(x_t), self.flow.to_predict(x_t))

"""Stages of a Runge-Kutta step of a budget-conditioned network, from which a student learns the whole step.

Shapes: B batch, L tokens, V vocabulary, N rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewstep.denoisers.base import Denoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness
from fewstep_budget.jump import cumulative_jump

Solver = Literal["heun", "rk4", "rk4_chained"]
WEIGHTS: dict[Solver, tuple[float, ...]] = {
    "heun": (1 / 2, 1 / 2),
    "rk4": (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    "rk4_chained": (1 / 6, 1 / 3, 1 / 3, 1 / 6),
}
"""Share of each stage in the mean."""
LOWEST = -69.0
"""Floor of log-probabilities, about 1e-30, which a mean of logarithms needs."""


@torch.no_grad()
def runge_kutta(
    network: Denoiser, x: Tensor, t: Tensor, length: Tensor, solver: Solver, cond: Condition, *, generator: Randomness
) -> list[Prediction]:
    """Predictions of the stages of a step of `length` (float64 [B]) from states x at times t.

    The network is told half the length at each stage. `rk4` starts each stage's jump at x, as the method has it: to the
    middle by the first prediction, there again by the second, to the end by the third. `rk4_chained` is the released
    code's: half a step further each time, from where the last stage ended.
    """
    half = length / 2
    middle, end = t - half, t - length

    def ask(state: Tensor, time: Tensor) -> Prediction:
        return network(state, time.clamp_min(0).float(), (time - half).float(), cond=cond, generator=generator)

    def jump(state: Tensor, prediction: Prediction, start: Tensor, stop: Tensor) -> Tensor:
        stop = stop.clamp_min(0)
        return cumulative_jump(network.process, prediction, state, start, stop, generator=generator)

    stages = [ask(x, t)]
    state = jump(x, stages[0], t, middle)
    stages.append(ask(state, middle))
    if solver == "heun":
        return stages
    chained = solver == "rk4_chained"
    state = jump(state, stages[1], middle, end) if chained else jump(x, stages[1], t, middle)
    stages.append(ask(state, middle))
    state = jump(state, stages[2], middle, end) if chained else jump(x, stages[2], t, end)
    stages.append(ask(state, end))
    return stages


def mean_of_stages(rows: tuple[Tensor, ...], weights: tuple[float, ...], average: str) -> Tensor:
    """Log-probabilities [N, V] of the mean of stages [N, V] each: of their probabilities, or of their logarithms."""
    if average == "probabilities":
        return torch.stack([w * row.exp() for w, row in zip(weights, rows, strict=True)]).sum(0).log().clamp_min(LOWEST)
    return torch.stack([w * row.clamp_min(LOWEST) for w, row in zip(weights, rows, strict=True)]).sum(0).log_softmax(-1)

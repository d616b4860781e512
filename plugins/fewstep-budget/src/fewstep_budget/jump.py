"""One jump over a whole step, by the rate of the flow summed over it (FS-DFM, arXiv 2509.20624).

The rate at which a token z of the flow turns into y is a(t) p(y), with a = -alpha' / (1 - alpha) towards the data. Over
a step from t to s it sums to log((1 - alpha_t) / (1 - alpha_s)), the cumulative scalar, whatever the schedule.

Shapes: B batch, L tokens, V vocabulary, N rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction
from fewstep.predictions.draws import pick
from fewstep.processes.base import TINY, Process
from fewstep.runtime.streams import Randomness, uniform


def cumulative_jump(
    process: Process, prediction: Prediction, x: Tensor, t: Tensor, s: Tensor, *, generator: Randomness
) -> Tensor:
    """States at s from states x at t (LongTensor [B, L]): z is left with probability 1 - r^(1 - p(z)).

    r = (1 - alpha_s) / (1 - alpha_t), so that a step which ends in the data leaves every z but a certain one. A token
    that leaves z becomes y in proportion to p(y).

    Args:
        process: the uniform process.
        t, s: times [B], s <= t.
    """
    noise = [process.schedule.noise(time.double()).clamp_min(TINY) for time in (s, t)]
    left = (noise[0] / noise[1]).log()[:, None].expand(x.shape)
    moves, targets = (uniform(x.shape, generator, device=x.device) for _ in range(2))
    (states,) = prediction.scan(_leave, prediction.where, x, left, moves, targets)
    return x.masked_scatter(prediction.where, states)


def _leave(log_p: Tensor, z: Tensor, left: Tensor, move: Tensor, target: Tensor) -> tuple[Tensor]:
    """States after the jump (LongTensor [N]) of rows [N, V], from two uniform numbers a row."""
    stays = log_p.gather(1, z[:, None])[:, 0].double().exp()
    leaves = move < -torch.expm1(left * (1 - stays).clamp_min(0))
    others = log_p.scatter(1, z[:, None], -torch.inf).exp()  # zeros where z is certain, and nothing leaves
    return (torch.where(leaves, pick(others, target, empty=True), z),)

"""The bound of arXiv 2602.02112 at one time, and its gradient by two draws.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.processes.base import TINY, DiscreteProcess
from fewstep_orders.exponents import velocity


@dataclass(frozen=True)
class OrderLoss:
    """`loss` is a scalar with the gradient of the bound. `mismatch` [2B, L] is the part of the velocities, detached."""

    loss: Tensor
    mismatch: Tensor


def order_loss(
    process: DiscreteProcess,
    forward: Tensor,
    reverse: Tensor,
    nll: Tensor,
    masked: Tensor,
    t: Tensor,
    mean: Callable[[Tensor], Tensor],
    dtype: torch.dtype = torch.float32,
) -> OrderLoss:
    """The bound's integrand at time t for two states z_1, z_2 of each sample, drawn by the forward exponents.

    With A the forward velocity of a position and A' the reverse one, a state costs

        L_z = sum over masked i of  -A_i log p(x_i | z) + A_i log(A_i / A'_i) - A_i + A'_i.

    The forward exponents decide the weights and also the states. Their gradient therefore has a pathwise part, and the
    part of the score with one draw as the baseline of the other (RLOO):

        1/2 grad(L_1 + L_2) + 1/2 (L_1 - L_2) grad(log q(z_1 | x) - log q(z_2 | x)).

    The value of the loss is that of the bound.

    Args:
        forward: exponents of the samples [B, L], with the gradient of the forward head.
        reverse: exponents of the predictions [2B, L], with the gradient of the reverse head.
        nll: -log p(x | z) [2B, L], 0 where no mask is. It may be lazy (`rowwise`): its rows are computed once.
        masked: masks of the states, first all z_1, then all z_2 (BoolTensor [2B, L]).
        t: times of the samples [B].
        mean: reduction of values [2B, L] to a scalar, linear in them (`StepContext.mean`).
        dtype: type of the values that are reduced; rates and their gradients are computed in float64.
    """
    exponents, times = forward.double().repeat(2, 1), t.double().repeat(2)
    rate, reverse_rate = (velocity(process.schedule, e, times) for e in (exponents, reverse))
    visible = ~masked
    # This sum comes first: it forms the gradient of the rows, and their values are known afterwards.
    loss = mean(rate.detach().to(dtype).masked_fill(visible, 0.0) * nll)
    costs = nll.detach().double() * rate
    mismatch = (rate * (rate / reverse_rate).log() - rate + reverse_rate).masked_fill(visible, 0.0)
    first, second = (costs + mismatch).detach().sum(1).chunk(2)
    score = _log_probs(process, exponents, masked, times) * torch.cat((first - second, second - first))[:, None]
    # Values of the costs are in the loss already, and the score adds a gradient alone.
    unseen = costs + score
    return OrderLoss(loss + mean((mismatch + unseen - unseen.detach()).to(dtype)), mismatch.detach())


def _log_probs(process: DiscreteProcess, exponents: Tensor, masked: Tensor, t: Tensor) -> Tensor:
    """log q(z_i masked or not | x) of each position, float64 [2B, L]."""
    times = t[:, None] ** exponents
    kept = process.schedule.alpha(times).clamp_min(TINY)  # 0 at t = 1, where all positions are masked
    return torch.where(masked, process.schedule.noise(times), kept).log()

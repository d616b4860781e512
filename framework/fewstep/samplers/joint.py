"""One draw from the row of all outcomes of a step, in several precisions.

The row of a masked token is [u p | 1 - u], with u the probability of a reveal. That of a token of the uniform process
is the posterior with probabilities plugged in. Shapes: B batch, L tokens, V vocabulary, S states, N predicted tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction
from fewstep.predictions.draws import winner
from fewstep.processes.base import DiscreteProcess, per_token, posterior_rows
from fewstep.processes.masked import MaskedProcess
from fewstep.runtime.streams import Randomness, uniform

JointPrecision = Literal["joint_fp64", "joint_safe", "joint_fp32"]


def draw_joint(
    process: DiscreteProcess,
    prediction: Prediction,
    x: Tensor,
    now: Tensor,
    then: Tensor,
    generator: Randomness,
    precision: JointPrecision,
    *,
    last: bool,
) -> Tensor:
    """z_s (LongTensor [B, L]) from rows q(z_s | z_t, probabilities of x) by the Gumbel-max trick.

    Args:
        precision: "joint_fp64": all in float64. "joint_safe": float32 sums, but noise -log(-log1p(-u)) from a u with
            53 bits. "joint_fp32": noise from a float32 u, which has 24 bits. In a step that reveals a share d of
            tokens, a symbol of probability p then loses mass if d p is near 2^-24, so many short steps sharpen the
            prediction (arXiv 2409.02908).
        last: exclude masks from the outcomes; a schedule may end below alpha = 1, and the row then allows masks.
    """
    sums = torch.float64 if precision == "joint_fp64" else torch.float32
    numbers = torch.float32 if precision == "joint_fp32" else torch.float64
    u = uniform((*x.shape, process.num_states), generator, device=x.device, dtype=numbers)
    times = [per_token(time).expand(x.shape) for time in prediction.on_clock(now, then)]

    def draw(log_p: Tensor, level: Tensor, z: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor]:
        tiny = torch.finfo(numbers).tiny  # infinite noise would draw a symbol of probability 0
        if precision == "joint_fp32":
            noise = level.clamp_min_(tiny).log_().neg_().log_().neg_()
        else:
            noise = level.neg_().log1p_().neg_().clamp_min_(tiny).log_().neg_()
        scores = noise.to(sums).add_(_log_rows(process, log_p.to(sums), z, t, s))
        return (winner(scores[:, : process.vocab_size if last else None]),)

    (states,) = prediction.scan(draw, prediction.where, u, x, *times)
    return x.masked_scatter(prediction.where, states)


def _log_rows(process: DiscreteProcess, log_p: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """log q(z_s | z_t, probabilities of x) [N, S] in the precision of log_p; for masks computed in logarithms."""
    if not isinstance(process, MaskedProcess):
        return posterior_rows(process, log_p.exp(), z, t, s).log().to(log_p.dtype)
    reveal = process.unmask_prob(t, s)[:, None]
    return torch.cat([log_p + reveal.log().to(log_p.dtype), torch.log1p(-reveal).to(log_p.dtype)], -1)

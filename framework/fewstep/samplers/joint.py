"""One draw from the row of all outcomes of a step, in several precisions.

The row of a masked token is [u p | 1 - u], with u the chance of a reveal; of a uniform one the posterior with
probabilities plugged in. Shapes: B batch, L tokens, V vocabulary, S states, N predicted tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewstep.prediction import Prediction
from fewstep.processes.base import ForwardProcess, posterior_rows
from fewstep.randomness import Randomness, uniform

JointPrecision = Literal["joint_fp64", "joint_safe", "joint_fp32"]


def draw_joint(
    process: ForwardProcess,
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
            53 bits. "joint_fp32": noise from a float32 u, which has 24 bits; a symbol of probability p then loses
            mass in a step that reveals a share d of tokens as soon as d p comes near 2^-24, so many short steps
            sharpen the prediction (arXiv 2409.02908).
        last: whether no mask may be left; a schedule may end short of alpha = 1, and so may the row.
    """
    dtype = torch.float32 if precision == "joint_fp32" else torch.float64
    shape = (*x.shape, process.num_states)
    u = uniform(shape, generator, device=x.device, dtype=dtype)
    times = [time[:, None].expand(x.shape) for time in (now, then)]

    def draw(log_p: Tensor, level: Tensor, z: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor]:
        rows = posterior_rows(process, log_p.exp(), z, t, s).log()
        if precision == "joint_fp32":
            noise = -(-level.clamp_min(torch.finfo(torch.float32).tiny).log()).log()
        else:
            noise = -(-torch.log1p(-level)).log()
        scores = rows + noise if precision == "joint_fp64" else rows.float() + noise.float()
        return (scores[:, : process.vocab_size if last else None].argmax(-1),)

    (drawn,) = prediction.scan(draw, prediction.where, u, x, *times)
    return x.masked_scatter(prediction.where, drawn)

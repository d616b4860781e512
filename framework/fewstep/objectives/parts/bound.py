"""The integrand of the continuous-time bound on the negative log-likelihood, for every schedule.

Shapes: B batch, L tokens, N rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction, rowwise
from fewstep.processes.base import TINY, DiscreteProcess, per_token


def bound(process: DiscreteProcess, prediction: Prediction, x0: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
    """What time t adds to the bound of each token, in nats [B, L]; its integral over t in [0, 1] is the bound.

    With masks it is -alpha' / (1 - alpha) times the cross entropy (MDLM, arXiv 2406.07524, eq. 10). For the uniform
    process it compares the reverse rates of the data, r_j = q(j | x) / q(z | x), with those of the leave-one-out rows,
    r'_j = q(j | p) / q(z | p) (UDLM, arXiv 2412.10193; Duo, arXiv 2506.10892):

        -alpha' / (V alpha) sum over j != z of r_j (u - 1 - log u), with u = r'_j / r_j.

    No term is negative and each is summed as it stands, so nothing cancels. The sum over j replaces a drawn jump.
    The true reverse rates are those of p(x_i | z_t without i): there the gradient is 0, and the bound is the
    negative log-likelihood itself.

    Args:
        prediction: of x given z_t, whatever the network's output means.
        x0: clean ids [B, L].
        z_t: noised ids [B, L].
        t: times [B] or [B, L].
    """
    schedule, level = process.schedule, t.double()
    if process.carry_over:
        return per_token(schedule.elbo_weight(level)).to(torch.float32) * prediction.nll(x0)
    alpha = schedule.alpha(level)
    signal = alpha * process.vocab_size / schedule.noise(level).clamp_min(TINY)
    speed = -schedule.alpha_prime(level) / (process.vocab_size * alpha.clamp_min(TINY))
    extras = [x0, z_t, per_token(signal).expand(x0.shape)]
    rows = process.leave_one_out(prediction, z_t, t)
    values = rowwise(_rate_divergence, [rows], extras, where=rows.where)
    return per_token(speed).to(torch.float32) * values


def _rate_divergence(log_p: Tensor, x: Tensor, z: Tensor, signal: Tensor) -> Tensor:
    """sum over j != z of r_j (u - 1 - log u) for rows [N, V]; `signal` [N] is alpha V / (1 - alpha)."""
    a = signal.to(log_p.dtype)[:, None]
    levels = torch.log1p(a * log_p.exp())  # log q(j | p), up to a constant
    here = levels.gather(1, z[:, None])
    moved = (x != z)[:, None]
    true = torch.where(moved, 0.0, -torch.log1p(a)).expand_as(levels)
    true = true.scatter(1, x[:, None], torch.log1p(a))  # read at x only if x differs from z
    y = levels - here - true
    terms = true.exp() * (torch.expm1(y) - y)
    return terms.scatter(1, z[:, None], 0.0).sum(1)

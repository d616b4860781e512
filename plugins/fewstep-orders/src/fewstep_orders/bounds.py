"""A bound on the negative log-likelihood of models with a clock, and of those without.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fewstep.denoisers.base import Denoiser
from fewstep.likelihood.bounds import looks
from fewstep.predictions.condition import Condition
from fewstep.processes.base import TINY, DiscreteProcess, discrete
from fewstep.runtime.streams import SampleStreams
from fewstep_orders.exponents import ExponentClock


@runtime_checkable
class OrdersNoise(Protocol):
    """A denoiser that orders the noising of a sample."""

    def forward_exponents(self, x0: Tensor, cond: Condition) -> Tensor:
        """Exponents [B, L] of the positions of clean tokens [B, L]."""


@dataclass(frozen=True)
class Bound:
    """`nats` (float64 [B]) bounds -log p(x) of each sample; `mismatch` is the part that the two clocks cost."""

    nats: Tensor
    mismatch: Tensor


@torch.no_grad()
def order_bound(
    denoiser: Denoiser, x: Tensor, times: Sequence[float], streams: SampleStreams, *, evaluations: int | None = None
) -> Bound:
    """Unbiased estimates of the negative ELBO of the walk along `times` (1 to 0), in nats a sample.

    A step of q, whose clock is the forward one, reveals a mask with probability q_i, a step of the sampler with p_i of
    the reverse clock: the mask costs q_i (-log p(x_i | z)) + KL(q_i || p_i). The last step reveals all. With the clock
    of the process on both sides this is the bound of D3PM (arXiv 2107.03006, eq. 1), `fewstep.likelihood.bounds`.

    Args:
        evaluations: number of steps evaluated for each sample, one in each stretch of the walk; None: all steps.
    """
    process, cond = discrete(denoiser.process), Condition()
    forward = denoiser.forward_exponents(x, cond) if isinstance(denoiser, OrdersNoise) else torch.ones_like(x)
    clock = ExponentClock(forward)
    nats = mismatch = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for t, s, first, weight in looks(times, evaluations, streams, x):
        z = process.corrupt(x, clock(t), generator=streams).x_t
        masks = process.prior((x.shape[0], x.shape[1]), device=x.device, generator=streams)
        z = torch.where(first[:, None], masks, z)
        prediction = denoiser(z, t.float(), s.float(), cond=cond, generator=streams)
        q = _reveals(process, clock(t), clock(s), first)
        now, then = prediction.on_clock(t, s)
        p = _reveals(process, now, then, torch.zeros_like(first))
        p, q = (torch.where(s[:, None] == 0, 1.0, chance) for chance in (p, q))
        cost = torch.special.xlogy(q, q / p) + torch.special.xlogy(1 - q, (1 - q) / (1 - p).clamp_min(TINY))
        cost = (cost * process.to_predict(z)).sum(1) * weight
        mismatch = mismatch + cost
        nats = nats + cost + (q * prediction.nll(x).double()).sum(1) * weight
    return Bound(nats, mismatch)


def _reveals(process: DiscreteProcess, t: Tensor, s: Tensor, first: Tensor) -> Tensor:
    """Chance that a step from t to s reveals a mask, [B, L] or [B, 1]; the `first` one of q starts without signal."""
    t, s = (times if times.ndim == 2 else times[:, None] for times in (t, s))
    alpha_s, noise_t = process.schedule.alpha(s), process.schedule.noise(t)
    kept = (alpha_s - process.schedule.alpha(t)) / noise_t.clamp_min(TINY)
    return torch.where(first[:, None], alpha_s, kept)

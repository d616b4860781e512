"""The Gaussian path behind the uniform process: relaxed states, and the bound of its integrand in their level.

Shapes: B batch, L tokens, V vocabulary, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.processes.base import TINY
from fewstep.runtime.streams import Randomness, normal
from fewstep.schedules.gaussian_dual import induced_alpha, induced_alpha_prime


@dataclass(frozen=True)
class Levels:
    """Levels of a batch on the path, each [B].

    `signal` and `noise` are the amplitudes a and s, with a^2 + s^2 = 1. `alpha` is that of the uniform process of the
    largest coordinates, `speed` is -(d alpha / d u) / (V alpha), where gamma rises evenly with u in [0, 1].
    """

    signal: Tensor
    noise: Tensor
    alpha: Tensor
    speed: Tensor


def levels_at(u: Tensor, gamma: tuple[float, float], vocab_size: int) -> Levels:
    """Levels at shares u [B] of the way from gamma[0] to gamma[1], float64."""
    span = gamma[1] - gamma[0]
    at = gamma[0] + span * u.double()
    alpha = induced_alpha(at, vocab_size)
    speed = -span * induced_alpha_prime(at, vocab_size) / (vocab_size * alpha).clamp_min(TINY)
    return Levels(torch.sigmoid(-at).sqrt(), torch.sigmoid(at).sqrt(), alpha, speed)


def relaxed_state(clean: Tensor, levels: Levels, temperature: float, *, generator: Randomness) -> tuple[Tensor, Tensor]:
    """w = a clean + s e: its rows softmax(w / T), float [B, L, V], and its largest coordinates, ids [B, L].

    Args:
        clean: rows of probabilities [B, L, V]; gradients flow through them into the rows.
    """
    a, s = (level.to(clean.dtype)[:, None, None] for level in (levels.signal, levels.noise))
    noise = normal(clean.shape, generator, device=clean.device, dtype=clean.dtype)
    w = a * clean + s * noise
    return (w / temperature).softmax(-1), w.detach().argmax(-1)


def rates(log_q: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """log q(j | q) / q(z | q) of rows [N, V]: logarithms of the rates at which z turns back into j.

    b(q) = V alpha q + 1 - alpha up to a factor of the row; `weight` [N] is V alpha / (1 - alpha).
    """
    levels = torch.log1p(weight.to(log_q.dtype)[:, None] * log_q.exp())
    return levels - levels.gather(1, z[:, None])


def gap(log_p: Tensor, log_teacher: Tensor, log_fake: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """Integrand of the bound under the teacher less that under the fake network, over the speed: [N].

    With soft tokens p in the place of data the bound's integrand under f is sum_j r_j (u_j - 1 - log u_j), u_j the
    quotient of the rates r'_j under f and r_j under p. What depends on p alone is the same in both.
    """
    p, teacher, fake = (rates(rows, z, weight) for rows in (log_p, log_teacher, log_fake))
    return teacher.exp().sum(1) - fake.exp().sum(1) - (p.exp() * (teacher - fake)).sum(1)


def bound_of(log_p: Tensor, log_fake: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """Integrand of the bound of soft tokens p under the fake network, over the speed: [N], never negative."""
    p, fake = (rates(rows, z, weight) for rows in (log_p.detach(), log_fake))
    change = fake - p
    return (p.exp() * (torch.expm1(change) - change)).sum(1)

"""The family of orders: position i is noised at the time t^e_i of the process, so its exponent e_i orders it.

A position with a larger exponent is masked later and revealed earlier. With the schedule `linear` it is masked with
probability t^e_i at time t, and a step of the sampler from t to s reveals it with probability 1 - (s / t)^e_i.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.schedules.base import NoiseSchedule


@dataclass(frozen=True)
class ExponentClock:
    """Clock of a prediction (`Prediction.clock`): `exponents` [B, L], positive."""

    exponents: Tensor

    def __call__(self, t: Tensor) -> Tensor:
        """Times [B] of the process -> times [B, L] of the positions, t^e in float64."""
        return t.double()[:, None] ** self.exponents.double()


@dataclass(frozen=True)
class Family:
    """Exponents that a network may choose: `mean` + `spread` (sigmoid(g_i) - mean_j sigmoid(g_j)) of scores g.

    The mean over positions is `mean` for every sample. With `spread` below `mean` all exponents are positive. `fixed`
    holds the exponent of each position in the place of the scores, or is None.
    """

    mean: float = 1.0
    spread: float = 0.0
    fixed: tuple[float, ...] | None = None

    @property
    def learned(self) -> bool:
        """Whether the exponents depend on scores."""
        return self.fixed is None and self.spread > 0

    def exponents(self, scores: Tensor) -> Tensor:
        """Scores [B, L] of a head -> exponents [B, L]."""
        shares = scores.sigmoid()
        return self.mean + self.spread * (shares - shares.mean(1, keepdim=True))

    def constant(self, length: int) -> Tensor:
        """The exponents (float64 [L]) if they are not learned."""
        return torch.tensor(self.fixed or (self.mean,) * length, dtype=torch.float64)


def velocity(schedule: NoiseSchedule, exponents: Tensor, t: Tensor) -> Tensor:
    """Rate at which a mask is revealed at t, as time runs back: d/dt log(1 - alpha(t^e)), float64 [B, L].

    It is -alpha'(t^e) e t^(e - 1) / (1 - alpha(t^e)), and e / t for the schedule `linear` with eps = 0.

    Args:
        exponents: [B, L].
        t: times [B] above 0.
    """
    e, t = exponents.double(), t.double()[:, None]
    return schedule.elbo_weight(t**e) * e * t ** (e - 1)

"""A guard against values that are not finite which no step waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sighting:
    """What a step came to: its number, its loss, the gradient norms of its roles, and whether a draw was refused."""

    step: int
    loss: float
    norms: Mapping[str, float]
    refused: bool


class Sentinel:
    """Remembers, on the device, the first step whose loss or gradients are not finite.

    `tripped` is 0 until that step and 1 from it on. Fused optimisers that have it as their `found_inf` change nothing
    while it is 1, so all weights stay as they were before that step, whenever the host asks.

    Args:
        roles: names of the trained roles.
        device: where losses and gradients are.
    """

    def __init__(self, roles: Sequence[str], device: torch.device) -> None:
        self.roles = tuple(roles)
        self.tripped = torch.zeros((), device=device)
        self._record = torch.zeros(3 + len(self.roles), dtype=torch.float64, device=device)

    def look(self, step: int, loss: Tensor, norms: Mapping[str, Tensor], refused: Tensor | None = None) -> None:
        """Judge a step before its update; nothing is copied to the host.

        Args:
            refused: whether a draw met rows that are no distribution, a bool scalar; None if there were no draws.
        """
        zero = torch.zeros_like(self.tripped)
        norm = [norms.get(role, zero) for role in self.roles]
        values = torch.stack([zero if refused is None else refused.to(zero.dtype), loss.detach(), *norm]).double()
        fresh = ~(values.isfinite().all() & (values[0] == 0)) & (self.tripped == 0)
        self._record[0].masked_fill_(fresh, float(step))
        self._record[1:] = torch.where(fresh, values, self._record[1:])
        self.tripped.masked_fill_(fresh, 1.0)

    def read(self) -> Sighting | None:
        """The first step that was not finite, if any; waits for the device."""
        if not bool(self.tripped):
            return None
        step, refused, loss, *norms = self._record.tolist()
        return Sighting(int(step), loss, dict(zip(self.roles, norms, strict=True)), bool(refused))

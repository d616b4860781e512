"""Exponential moving average of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """Average of the weights; the decay after n updates is min(decay, (1 + n) / (10 + n)).

    The average is updated in place, shard by shard if parameters are sharded.

    Args:
        parameters: by name, as this rank holds them (`Shards.own`).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Move the average towards the current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current = [p.detach() for p in parameters.values()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        for name, weight in self.weights.items():
            weight.copy_(state["weights"][name])

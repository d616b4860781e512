"""Numbers of a training between two log lines: sums and counts, whose means the next line shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from fewstep.runtime.ranks import Ranks

Number: TypeAlias = float | Tensor
"""A scalar, on the host or wherever it was computed."""


class Sums:
    """Sums and counts by name. They stay where they were computed until they are read."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[Number, Number]] = {}

    def add(self, values: Mapping[str, Tensor], weight: Number = 1.0) -> None:
        """Add scalars that count `weight` times; nothing is copied to the host."""
        weight = weight.detach().double() if isinstance(weight, Tensor) else weight
        for name, value in values.items():
            total, count = self._pairs.get(name, (0.0, 0.0))
            self._pairs[name] = (total + value.detach().double(), count + weight)

    def clear(self) -> None:
        """Begin anew."""
        self._pairs.clear()

    def means(self) -> dict[str, float]:
        """Mean of each number that counts at all."""
        return {name: total / count for name, (total, count) in self._on_host().items() if count}

    def over(self, ranks: Ranks) -> Sums:
        """The sums of all ranks together, which all of them get."""
        if not ranks.several:
            return self
        total = Sums()
        for text in ranks.texts(json.dumps(self._on_host())):
            for name, (value, weight) in json.loads(text).items():
                before = total._pairs.get(name, (0.0, 0.0))
                total._pairs[name] = (before[0] + value, before[1] + weight)
        return total

    def state_dict(self) -> dict[str, list[float]]:
        """Sum and count of each number."""
        return {name: list(pair) for name, pair in self._on_host().items()}

    def load_state_dict(self, state: Mapping[str, tuple[float, float]]) -> None:
        """Restore what `state_dict` returned."""
        self._pairs = {name: (total, count) for name, (total, count) in state.items()}

    def _on_host(self) -> dict[str, tuple[float, float]]:
        """Sums and counts as numbers, with one copy from a GPU for all of them."""
        values = [value for pair in self._pairs.values() for value in pair]
        far = [value for value in values if isinstance(value, Tensor) and _is_far(value)]
        copied = iter(torch.stack(far).tolist() if far else [])
        numbers = iter([next(copied) if _is_far(value) else float(value) for value in values])
        return {name: (next(numbers), next(numbers)) for name in self._pairs}


def _is_far(value: Number) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"

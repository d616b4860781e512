"""Keys and values of the clean tokens that a block-autoregressive network has read.

Shapes: B batch, L tokens of a sample, P tokens of a prefix, S tokens a block, K heads, Dh head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValues:
    """Keys and values of one layer, in tensors that have room for a whole sample from the first block on.

    Appending a block writes its S tokens and copies nothing. The prefixes of a sample share it: one of P tokens reads
    the first P. What lies behind the `filled` ones is room that any evaluation may write to and none relies on.

    Args:
        room: L.
    """

    def __init__(self, room: int) -> None:
        self.room, self.filled = room, 0
        self.keys: Tensor | None = None
        """[B, L, K, Dh], as are `values`; None before the first block."""
        self.values: Tensor | None = None

    def extended(self, first: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, P + S, K, Dh]: those of the first P tokens, and `keys` and `values` [B, S, K, Dh].

        They are copied instead of written where a gradient is taken, or where another prefix has gone on from P.
        """
        if self.keys is None or self.values is None:
            shape = (keys.shape[0], self.room, *keys.shape[2:])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        if torch.is_grad_enabled() or self.filled > first or self.keys.dtype != keys.dtype:
            return torch.cat((self.keys[:, :first], keys), 1), torch.cat((self.values[:, :first], values), 1)
        end = first + keys.shape[1]
        self.keys[:, first:end] = keys
        self.values[:, first:end] = values
        return self.keys[:, :end], self.values[:, :end]

    def branch(self, first: int) -> KeyValues:
        """These keys and values to append to from P on; a copy of the first P if another prefix has gone on from there.

        So a prefix can be continued in several ways.
        """
        if self.filled == first or self.keys is None or self.values is None:
            return self
        copy = KeyValues(self.room)
        copy.keys, copy.values, copy.filled = self.keys.clone(), self.values.clone(), first
        return copy

    def select(self, rows: Tensor | slice) -> KeyValues:
        """A copy for the samples in `rows`."""
        copy = KeyValues(self.room)
        if self.keys is not None and self.values is not None:
            copy.keys, copy.values, copy.filled = self.keys[rows].clone(), self.values[rows].clone(), self.filled
        return copy

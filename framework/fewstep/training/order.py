"""Seeded order of training samples, whose whole state is one number."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.seeding import derived_seed


class EpochOrder:
    """Endless stream of sample indices: each epoch is a fresh permutation, and batches run across epochs.

    Args:
        count: samples in the dataset.
        seed: of the permutations.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.position = 0
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def take(self, size: int) -> Tensor:
        """The next `size` indices (LongTensor [size])."""
        parts = []
        while size:
            epoch, offset = divmod(self.position, self.count)
            part = self._permutation(epoch)[offset : offset + size]
            parts.append(part)
            self.position += len(part)
            size -= len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, f"epoch/{epoch}"))
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        return self._order

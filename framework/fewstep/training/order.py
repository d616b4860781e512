"""Seeded order of training samples: a pure function of the position, which is therefore its only state."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.runtime.seeding import derived_seed


class EpochOrder:
    """Endless stream of sample indices: each epoch is a fresh permutation, and batches run across epochs.

    Args:
        count: samples in the dataset.
        seed: of the permutations.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def at(self, position: int, size: int) -> Tensor:
        """The `size` indices from `position` on (LongTensor [size])."""
        parts = []
        while size:
            epoch, offset = divmod(position, self.count)
            part = self._permutation(epoch)[offset : offset + size]
            parts.append(part)
            position += len(part)
            size -= len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, f"epoch/{epoch}"))
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        return self._order


def share_of(indices: Tensor, rank: int, world: int) -> Tensor:
    """Part of a batch for one of `world` ranks: the parts do not overlap, and in order they are the batch."""
    begin, end = (share_begin(len(indices), place, world) for place in (rank, rank + 1))
    return indices[begin:end]


def share_begin(count: int, rank: int, world: int) -> int:
    """Place of a rank's first sample in a batch of `count` samples."""
    return count * rank // world

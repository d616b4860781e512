"""Random numbers for batches: one stream for the whole batch, or one per sample.

Training uses one generator. Sampling uses one stream per sample, so that sample i of a seed is the same in any batch,
on any device and in any process. Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from fewstep.runtime.seeding import generator_for


class SampleStreams:
    """An independent stream for each sample of a batch, determined by seed and sample number.

    Random numbers are generated on the CPU, since CPU generators are identical on every machine.

    Args:
        seed: seed of the whole job.
        numbers: numbers of the samples within the job.
    """

    def __init__(self, seed: int, numbers: Sequence[int]) -> None:
        self._generators = [generator_for(seed, f"sample/{number}") for number in numbers]

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, rows: Tensor) -> SampleStreams:
        """Streams of the samples in `rows` (LongTensor [n], or BoolTensor [B]), which share generators with these."""
        subset = SampleStreams(0, ())
        numbers = torch.arange(len(self))[rows.cpu()].tolist()
        subset._generators = [self._generators[number] for number in numbers]
        return subset

    def repeat(self, times: int) -> SampleStreams:
        """Streams of `times` copies of the batch, one after the other; the copies of a sample share its generator."""
        copies = SampleStreams(0, ())
        copies._generators = self._generators * times
        return copies

    def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Uniform numbers in [0, 1), [B, *shape]."""
        return self._stacked(
            [torch.rand(tuple(shape), generator=g, dtype=dtype) for g in self._generators], shape, dtype
        )

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Standard normal numbers [B, *shape]."""
        return self._stacked(
            [torch.randn(tuple(shape), generator=g, dtype=dtype) for g in self._generators], shape, dtype
        )

    @staticmethod
    def _stacked(parts: list[Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.stack(parts) if parts else torch.empty(0, *shape, dtype=dtype)


Randomness: TypeAlias = Generator | SampleStreams | None
"""Source of random numbers; None is torch's global generator."""


def uniform(
    shape: Sequence[int],
    source: Randomness,
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Uniform numbers in [0, 1) of `shape`, whose first axis is the batch."""
    if isinstance(source, SampleStreams):
        return source.uniform(shape[1:], dtype).to(device)
    return torch.rand(tuple(shape), generator=source, device=device, dtype=dtype)


def normal(
    shape: Sequence[int],
    source: Randomness,
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal numbers of `shape`, whose first axis is the batch."""
    if isinstance(source, SampleStreams):
        return source.normal(shape[1:], dtype).to(device)
    return torch.randn(tuple(shape), generator=source, device=device, dtype=dtype)


def integers(high: int, shape: Sequence[int], source: Randomness, *, device: torch.device | str) -> Tensor:
    """Integers in [0, high) of `shape`, whose first axis is the batch."""
    if isinstance(source, SampleStreams):
        return (uniform(shape, source, device=device) * high).long().clamp(max=high - 1)
    return torch.randint(high, tuple(shape), generator=source, device=device)

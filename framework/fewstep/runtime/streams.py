"""Random numbers for batches, of which each sample has its own.

The numbers of a sample are a function of seed, purpose, its number, and how many draws it took part in
(`runtime.philox`). So sample i of a seed is the same in any batch, in any process, in any order and on any device.
Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from fewstep.runtime import philox
from fewstep.runtime.seeding import derived_seed

_NUMBERS = 1 << 48
"""Above the largest number of a sample, which is in the low bits of its key."""
_COPIES = (1 << 16) - 1
"""Above the largest number of a sample's copy, which is in the high bits; the last value is for shared draws."""
_DRAW = 1 << 32
"""Blocks of a key that are for one draw."""


class SampleStreams:
    """An independent stream for each sample of a batch.

    Streams that `select` or `repeat` made count the same draws: a number is never drawn twice. A draw of more rows than
    samples is one of copies: its rows are the first ones of `repeat`.

    Args:
        seed: seed of the whole job.
        numbers: numbers of the samples within the job, from 0.
        purpose: what the numbers are for; other purposes have independent streams.
        batch: numbers of all samples that `spread` spreads numbers over, if this batch is a part of them.
        device: where numbers are made. Draws for another device are copied to it.

    Raises:
        ValueError: a number is negative, or 2^48 or more.
    """

    def __init__(
        self,
        seed: int,
        numbers: Sequence[int],
        *,
        purpose: str = "sample",
        batch: range | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        ends = (numbers[0], numbers[-1]) if isinstance(numbers, range) else numbers
        if len(numbers) and (min(ends) < 0 or max(ends) >= _NUMBERS):
            raise ValueError(f"samples have numbers from 0 to 2^48 - 1, not {min(ends)} to {max(ends)}")
        self._numbers, self._device = numbers, torch.device(device)
        self._key = derived_seed(seed, purpose)
        self._places: Tensor | None = None
        self._copies = 1
        self._batch = batch if batch is not None or not isinstance(numbers, range) else numbers

    def __len__(self) -> int:
        return len(self._numbers) if self._places is None else len(self._places)

    @cached_property
    def _ordinals(self) -> Tensor:
        """Each sample's number, and that of its copy above it: LongTensor [B]."""
        numbers = self._numbers
        if isinstance(numbers, range):  # nothing is copied to the device
            return torch.arange(numbers.start, numbers.stop, numbers.step, device=self._device)
        return torch.tensor(numbers, dtype=torch.long, device=self._device)

    @cached_property
    def _keys(self) -> Tensor:
        """Key and offset of every sample that there was before any was selected or repeated, LongTensor [N, 2].

        All streams that were selected or repeated from these share it, and the offsets in it.
        """
        return torch.stack((self._ordinals ^ self._key, torch.zeros_like(self._ordinals)), 1)

    def initial_seed(self) -> int:
        """A seed of 63 bits for generators of other kinds, of this seed and purpose."""
        return self._key

    def select(self, rows: Tensor | slice) -> SampleStreams:
        """Streams of the samples in `rows`: indices (LongTensor [n]), a BoolTensor [B] or a slice."""
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        return self._with(self._ordinals[rows], self._all_places()[rows], self._copies)

    def repeat(self, times: int) -> SampleStreams:
        """Streams of `times` copies of the batch, one after the other; each copy draws numbers of its own.

        Raises:
            ValueError: there are 65,535 copies or more.
        """
        copies = self._copies * times
        if copies >= _COPIES:
            raise ValueError(f"{copies} copies of a sample; at most {_COPIES - 1} have numbers of their own")
        numbers = torch.arange(times, device=self._device) * self._copies
        ordinals = self._ordinals + numbers[:, None] * _NUMBERS
        return self._with(ordinals.flatten(), self._all_places().repeat(times), copies)

    def _all_places(self) -> Tensor:
        """Place of each sample in `_keys`, LongTensor [B]."""
        return torch.arange(len(self), device=self._device) if self._places is None else self._places

    def _with(self, ordinals: Tensor, places: Tensor, copies: int) -> SampleStreams:
        streams = object.__new__(SampleStreams)
        streams.__dict__.update(self.__dict__, _keys=self._keys, _ordinals=ordinals, _places=places, _copies=copies)
        return streams

    def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Uniform numbers in [0, 1), [B, ...]: 53 bits in float64, 24 in float32."""
        return self._draw(philox.uniform, shape, dtype).reshape(tuple(shape))

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Standard normal numbers [B, ...]."""
        return self._draw(philox.normal, shape, dtype).reshape(tuple(shape))

    def spread(self, count: int, per: int, dtype: torch.dtype) -> Tensor:
        """Numbers ~ U(0, 1) spread evenly over the samples of the batch, `per` of each, by one shift: [count, per].

        They are spread over `count` rows alone where these are more than the samples.

        Raises:
            ValueError: the batch that these samples are a part of is not known.
        """
        if self._batch is None or self._copies > 1:
            raise ValueError("numbers are spread over a batch of samples with consecutive numbers")
        # Every sample computes the shift, which is shared, from the number of the batch's first one.
        shift = self._draw(philox.uniform, (len(self), 1), dtype, self._batch.start + _COPIES * _NUMBERS)
        if count > len(self):
            rows, whole, shift = torch.arange(count, device=self._device), count, shift[:1]
        else:
            rows, whole = self._ordinals - self._batch.start, len(self._batch)
        places = rows[:, None] * per + torch.arange(per, device=self._device)
        return (places.to(dtype) / (whole * per) + shift) % 1.0

    def _draw(
        self,
        numbers: Callable[[Tensor, int, torch.dtype], Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
        shared: int | None = None,
    ) -> Tensor:
        """The next numbers of each sample; with the keys of one sample, `shared`, if it is not None."""
        if shape[0] > len(self) > 0:
            many = self.repeat(-(-shape[0] // len(self))).select(slice(shape[0]))
            return many._draw(numbers, shape, dtype, shared)
        if shape[0] != len(self):
            raise ValueError(
                f"{shape[0]} rows of random numbers of {len(self)} samples; `select` the samples that are drawn for"
            )
        size, every = torch.Size(shape[1:]).numel(), self._keys
        if self._places is None and shared is None:
            drawn = numbers(every, size, dtype)
            every[:, 1] += _DRAW
            return drawn
        places = slice(None) if self._places is None else self._places
        offsets = every[places, 1]
        ordinals = self._ordinals if shared is None else torch.full_like(offsets, _signed(shared))
        drawn = numbers(torch.stack((ordinals ^ self._key, offsets), 1), size, dtype)
        every[places, 1] = offsets + _DRAW
        return drawn


def _signed(word: int) -> int:
    """64 bits as an int64."""
    return word - (1 << 64) if word >= 1 << 63 else word


Randomness: TypeAlias = Generator | SampleStreams | None
"""Source of random numbers: a generator has one sequence for all samples; None is torch's global generator."""


def repeated(source: Randomness, times: int) -> Randomness:
    """The source for `times` copies of a batch, one after the other."""
    return source.repeat(times) if isinstance(source, SampleStreams) else source


def selected(source: Randomness, rows: Tensor | slice) -> Randomness:
    """The source for the samples in `rows` of a batch: indices (LongTensor [n]), a BoolTensor [B] or a slice."""
    return source.select(rows) if isinstance(source, SampleStreams) else source


def uniform(
    shape: Sequence[int],
    source: Randomness,
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Uniform numbers in [0, 1) of `shape`, whose first axis is the batch."""
    if isinstance(source, SampleStreams):
        return source.uniform(shape, dtype).to(device)
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
        return source.normal(shape, dtype).to(device)
    return torch.randn(tuple(shape), generator=source, device=device, dtype=dtype)


def integers(high: int, shape: Sequence[int], source: Randomness, *, device: torch.device | str) -> Tensor:
    """Integers in [0, high) of `shape`, whose first axis is the batch; no probability is off by more than 2^-53."""
    if isinstance(source, SampleStreams):
        return uniform(shape, source, device=device).mul_(high).long().clamp_(max=high - 1)
    return torch.randint(high, tuple(shape), generator=source, device=device)


def spread(
    count: int,
    source: Randomness,
    *,
    device: torch.device | str,
    per: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Numbers ~ U(0, 1) of a batch, spread evenly by one random shift that all share: [count, per].

    With `SampleStreams` they are those of the whole batch of which the samples are a part.
    """
    if isinstance(source, SampleStreams):
        return source.spread(count, per, dtype).to(device)
    shift = torch.rand(1, generator=source, device=device, dtype=dtype)
    return ((torch.arange(count * per, device=device, dtype=dtype) / (count * per) + shift) % 1.0).view(count, per)

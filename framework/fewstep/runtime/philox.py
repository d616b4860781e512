"""Philox-4x32-10: random numbers that are a function of a counter and a key (Salmon et al., SC 2011).

A counter-based generator has no state. Any number can be computed alone, so numbers do not depend on which others are
drawn beside it. torch has an operator for it, one kernel on a GPU, which is private and may change. It is therefore
compared once a device with the plain operations of this file, which take its place where it differs or is missing: they
are the definition of the numbers. Their integers give the same bits on every device.

Shapes: B samples, R numbers a sample. `keys` are int64 [B, 2]: the key of a sample, 64 bits, and its offset, the number
of the first block of four words, which is the low half of the counter. The high half is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def uniform(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in [0, 1), [B, R = size]: multiples of 2^-53 in float64, of 2^-24 in float32.

    Number r of a sample does not depend on R.

    Raises:
        ValueError: another dtype, whose numbers would round up to 1.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"uniform numbers are float32 or float64, not {dtype}")
    return (_native if is_native(keys.device) else plain_uniform)(keys, size, dtype)


def normal(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers [B, R = size] by Box and Muller, from uniform numbers with 53 bits.

    The method is exact, takes as many uniform numbers as it gives, and all its functions are vectorised on every
    device. The largest number is 8.57, where the inverse distribution function of a float32 would end at 5.3. Devices
    may differ in the last bit of a logarithm or cosine.
    """
    real = torch.float64 if dtype == torch.float64 else torch.float32
    first, second = uniform(keys, 2 * -(-size // 2), torch.float64).chunk(2, 1)
    # 1 - u is at least 2^-53, which float32 can hold; u itself may be 0.
    radius = (1 - first).to(real).log_().mul_(-2).sqrt_()
    angle = (second * (2 * torch.pi)).to(real)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), 1)[:, :size].to(dtype)


def plain_uniform(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """`uniform` in operations on integers."""
    count = -(-size // (2 if dtype == torch.float64 else 4))
    blocks, zero = keys[:, 1:] + torch.arange(count, device=keys.device), keys.new_zeros(())
    words = torch.stack(philox((blocks & _WORD, blocks >> 32 & _WORD, zero, zero), keys[:, :1]), -1)
    if dtype == torch.float32:
        return ((words & (1 << 24) - 1).float() * 2.0**-24).flatten(1)[:, :size]
    high, low = words.unflatten(-1, (2, 2)).unbind(-1)
    return (((high & (1 << 21) - 1) << 32 | low).double() * 2.0**-53).flatten(1)[:, :size]


def philox(counter: Sequence[Tensor], key: Tensor) -> Words:
    """The four words of counters, given as four words in [0, 2^32), under keys of 64 bits; all int64, broadcast.

    A product of two words wraps around in int64, which leaves its 64 bits right.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & _WORD, key >> 32 & _WORD
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (second >> 32 ^ c1 ^ k0) & _WORD, second & _WORD
        c2, c3 = (first >> 32 ^ c3 ^ k1) & _WORD, first & _WORD
        k0, k1 = k0 + _INCREMENTS[0] & _WORD, k1 + _INCREMENTS[1] & _WORD
    return c0, c1, c2, c3


def _native(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """`uniform` by torch's operator, whose batched keys are uint64 [B, 1, 2]."""
    out = torch.empty(len(keys), size, dtype=dtype, device=keys.device)
    return torch.ops.aten._philox_uniform_(out, keys.view(torch.uint64)[:, None], 0.0, 1.0)


@cache
def is_native(device: torch.device) -> bool:
    """Whether torch's operator gives the numbers of `plain_uniform` on a device."""
    keys = torch.tensor([[0, 0], [-1, 5 << 32], [0x123456789ABCDEF, (1 << 32) - 1]], device=device)
    try:
        return all(
            torch.equal(_native(keys, size, dtype), plain_uniform(keys, size, dtype))
            for size in (1, 37)
            for dtype in (torch.float32, torch.float64)
        )
    except (AttributeError, NotImplementedError, RuntimeError):
        return False

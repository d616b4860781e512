"""The size of what holds a number for each symbol of each token, and the sentence that refuses it."""

from __future__ import annotations

import math


def too_large(count: int, length: int, vocab_size: int, gigabytes: float, *, label: str = "states") -> str | None:
    """Why tensors [count, length, vocab_size] of float32 take more memory than they may; None if they do not.

    Args:
        gigabytes: the limit, in units of 1e9 bytes.
        label: what one of `count` is called, in the plural.
    """
    size = 4 * count * length * vocab_size / 1e9
    if size <= gigabytes:
        return None
    return (
        f"{count:,} {label} of {length:,} tokens and {vocab_size:,} symbols are dense vectors of "
        f"{_rounded(size)} GB, above the limit of {gigabytes:g} GB"
    )


def _rounded(size: float) -> str:
    """At least two significant digits, rounded up so that it never reads as the limit below it."""
    digits = max(0, 1 - math.floor(math.log10(size)))
    return f"{math.ceil(size * 10**digits) / 10**digits:,.{digits}f}"

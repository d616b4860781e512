"""The precision that networks compute in. `docs/precision.md` says what is in which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
TrainPrecision = Literal["auto", "fp32", "bf16"]


def resolve_precision(name: TrainPrecision, device: torch.device) -> Precision:
    """The precision of a setting: `auto` is bf16 on a GPU that computes in it, and fp32 on all else.

    On a CPU bf16 is no faster than fp32 unless the processor has matrix units for it, and results would change.
    """
    if name != "auto":
        return name
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


@contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Within, products of float32 matrices on a GPU round their factors to TF32: eight times the rate, 10 bits.

    Sums, and all that is no product of matrices, stay in float32. Nothing changes on other devices.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    # Not `torch.backends.cuda.matmul.fp32_precision`: parts of the compiler still read the older flags, and refuse to
    # where only the newer one was set. This call sets both.
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

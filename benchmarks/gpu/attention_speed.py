"""Part 4: attention, forward and backward, in bf16, by length and head dimension, at a constant number of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from cases import Case, Outcome, Setting
from flops import attention as attention_flops
from kernels import KERNELS, inputs, kernel
from measuring import seconds

LENGTHS, TOKENS, WIDTH = (1024, 8192, 256, 2048, 4096, 512), 32_768, 768
"""The ends and the usual length first: there may be no time for all."""
CHANNELS = (64, 128)


def cases(setting: Setting) -> Iterator[Case]:
    """FlexAttention is compiled for each size, so it comes last."""
    for name in sorted(KERNELS, key="flex".__eq__):
        for length in LENGTHS[:1] if setting.short else LENGTHS:
            for channels in CHANNELS:
                case = f"{name}, L {length}, head dimension {channels}"
                yield Case(case, 8 if name == "flex" else 1.5, partial(speed, setting, name, length, channels))


def speed(setting: Setting, name: str, length: int, channels: int) -> Outcome:
    """Time and rate of an implementation."""
    device, call = setting.device, kernel(name, setting.device)
    batch, heads = (1, 1) if setting.short else (max(1, TOKENS // length), WIDTH // channels)
    x = inputs(batch, length, heads, channels, device, torch.bfloat16)
    gradient = torch.randn_like(x[0])

    def forward() -> None:
        with torch.no_grad():
            call(*x)

    def both() -> None:
        torch.autograd.grad(call(*x), x, gradient)

    calls = 1 if setting.short else 10
    for _ in range(2):
        both()
    forward()
    ahead = seconds(forward, device, calls=calls)
    back = seconds(both, device, calls=calls) - ahead
    flops = attention_flops(batch, length, heads, channels)
    rates = [work / time / 1e12 for work, time in zip(flops, (ahead, back), strict=True)]
    text = f"forward {1e3 * ahead:.2f} ms ({rates[0]:,.0f} TFLOP/s), backward {1e3 * back:.2f} ms ({rates[1]:,.0f})"
    return Outcome(text, {"forward_ms": 1e3 * ahead, "backward_ms": 1e3 * back, "tflops": rates, "batch": batch})

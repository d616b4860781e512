"""Implementations of attention by name: the product's, and SDPA's kernels one by one.

Shapes: B batch, L tokens, K heads, Dh head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from cases import Missing
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewstep.backbones.attention import attention, has_xformers

Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k, v [B, L, K, Dh] -> [B, L, K, Dh]."""

SDPA = {"sdpa flash": SDPBackend.FLASH_ATTENTION, "sdpa cudnn": SDPBackend.CUDNN_ATTENTION}
KERNELS = ("xformers", "sdpa", *SDPA, "flex")


def kernel(name: str, device: torch.device) -> Kernel:
    """An implementation.

    Raises:
        Missing: it does not run on this device.
    """
    if name == "xformers" and (device.type != "cuda" or not has_xformers()):
        raise Missing("xformers is not installed, or there is no GPU")
    if name in SDPA and device.type != "cuda":
        raise Missing("a kernel for GPUs")
    if name in SDPA:
        return partial(_one_of_sdpa, SDPA[name])
    if name == "flex" and device.type != "cuda":
        raise Missing("FlexAttention has no gradients on a CPU")
    return partial(attention, backend=name)


def inputs(
    batch: int, length: int, heads: int, channels: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k and v that take gradients."""
    shape = (batch, length, heads, channels)
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_() for _ in range(3))
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in plain operations, all in float64."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    out: Tensor = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return out.transpose(1, 2)


def _one_of_sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return attention(q, k, v, backend="sdpa")

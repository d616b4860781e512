"""Attention behind one function: xformers, PyTorch's SDPA and FlexAttention (`flex`), or plain operations.

No other file imports xformers, and none but this and `flex` knows the layout of an implementation.

Shapes: B batch, L tokens (Lq queries, Lk keys), K heads, Dh head dimension.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from fewstep.backbones.flex import flex, has_flex
from fewstep.core.errors import UserError

AttentionName = Literal["auto", "xformers", "flex", "sdpa", "math"]

log = logging.getLogger("fewstep")

_PLAIN: ContextVar[bool] = ContextVar("plain attention", default=False)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    backend: str,
    mask: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v for each head; without a mask every token sees every other.

    Args:
        q: [B, Lq, K, Dh].
        k, v: [B, Lk, K, Dh], of q's dtype.
        backend: a value of `resolve_backend`: "fastest", "xformers", "flex", "sdpa" or "math".
        mask: BoolTensor [Lq, Lk], true where a query sees a key; each query must see at least one.

    Returns:
        [B, Lq, K, Dh].

    Raises:
        ValueError: the backend is unknown.
        UserError: the backend is "xformers" or "flex", and has no code for these tensors.
    """
    if _PLAIN.get():
        return _math(q, k, v, mask)
    if backend == "fastest":
        # Compiled code takes SDPA: it is one operator to the compiler, where xformers' choice of a kernel is Python.
        backend = "sdpa" if torch.compiler.is_compiling() else _fastest(q, k, v, mask)
    if backend not in _KERNELS:
        raise ValueError(f"unknown attention backend '{backend}'; use a value of resolve_backend()")
    return _KERNELS[backend](q, k, v, mask)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Use plain operations within, for any backend, since fused kernels have no forward-mode derivative."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


_FASTEST: dict[tuple[object, ...], str] = {}
"""What `auto` takes on a GPU, by shapes and types."""

_CHOSEN: dict[tuple[str, str], str] = {}
"""Backends by name and type of device, once they are resolved: compiled code reads them and resolves nothing."""


def resolve_backend(name: AttentionName, device: str) -> str:
    """The backend that `name` means on a type of device ("cpu", "cuda"); the first answer for each is logged.

    On a GPU auto means "fastest": what takes least time there for tensors of these shapes (`_fastest`), and SDPA where
    nothing else is installed. On a CPU it is SDPA: FlexAttention has no gradients there, and takes seconds to compile.

    Raises:
        UserError: `name` is xformers or flex, which cannot be imported or has no code for this device.
    """
    if (name, device) not in _CHOSEN:
        _CHOSEN[name, device] = _choose(name, device)
    return _CHOSEN[name, device]


def _choose(name: AttentionName, device: str) -> str:
    backend: str = name
    if name == "auto":
        others = device == "cuda" and (_import_xformers() is not None or has_flex(device))
        backend = "fastest" if others else "sdpa"
    elif name == "flex" and not has_flex(device):
        raise UserError(f"attention: FlexAttention needs Triton on {device}; use `attention: auto` or `sdpa`")
    elif name == "xformers":
        if device != "cuda":
            raise UserError(f"attention: xformers has no {device} operator; use `attention: auto` or `sdpa`")
        if _import_xformers() is None:
            raise UserError(
                "attention: xformers is not installed or cannot be imported; use `attention: auto` or `sdpa`"
            )
    log.info("attention on %s: %s%s", device, backend, " (chosen by auto)" if name == "auto" else "")
    return backend


def _fastest(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> str:
    """The implementation that takes least time for tensors of these shapes, measured once for each.

    Others than SDPA must be a tenth faster, so that measurements that differ by little do not change what a resumed run
    takes. FlexAttention is measured where there is a mask: it gains by what a mask hides, and takes seconds to compile.
    """
    trained = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    key = (*q.shape[1:], k.shape[1], q.dtype, mask is not None, trained)
    if key in _FASTEST:
        return _FASTEST[key]
    if q.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return "sdpa"  # a graph is being recorded, in which nothing can be measured
    inputs = [x.detach().clone().requires_grad_(trained) for x in (q, k, v)]
    others = [name for name in ("xformers", "flex") if _runs(name, inputs, mask)]
    _FASTEST[key] = "sdpa"
    if others:
        names = (*others, "sdpa")
        times = {name: _milliseconds(_KERNELS[name], inputs, mask, trained) for name in names}
        best = min(times, key=times.__getitem__)
        _FASTEST[key] = best if times[best] < 0.9 * times["sdpa"] else "sdpa"
        shape = f"{q.shape[2]} heads of {q.shape[3]}, {q.shape[1]} queries, {k.shape[1]} keys, {q.dtype}"
        what = ", ".join(f"{name} {time:.3f} ms" for name, time in times.items())
        log.info("attention for %s%s: %s", shape, " with a mask" * (mask is not None), what)
    return _FASTEST[key]


def _runs(name: str, inputs: list[Tensor], mask: Tensor | None) -> bool:
    """Whether xformers or FlexAttention can take these tensors; if not, a warning says why, once for each reason."""
    if name == "xformers" and _import_xformers() is None:
        return False
    if name == "flex" and (mask is None or not has_flex(inputs[0].device.type)):
        return False
    q, k, v = inputs
    try:
        _KERNELS[name](q, k, v, mask)
    except UserError as error:
        _warn_once(str(error).split(";")[0] + "; sdpa takes its place")
        return False
    return True


def _milliseconds(
    fn: Callable[..., Tensor], inputs: list[Tensor], mask: Tensor | None, trained: bool, repeats: int = 5
) -> float:
    """Least time of a call on a GPU, with its backward pass if a training needs it."""
    times = []
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(repeats + 1):  # the first one loads kernels
        with torch.set_grad_enabled(trained):
            start.record()
            out = fn(*inputs, mask)
            if trained:
                torch.autograd.grad(out, inputs, torch.ones_like(out))
            end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times[1:])


def has_xformers() -> bool:
    """Whether xformers is installed and can be imported; it also needs a GPU."""
    return _import_xformers() is not None


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by plain operations: the reference of tests, and differentiable any number of times."""
    q, k, v = (rearrange(x, "b l k d -> b k l d") for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return rearrange(scores.float().softmax(-1).to(v.dtype) @ v, "b k l d -> b l k d")


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    fmha = _import_xformers()
    if fmha is None or not q.is_cuda:
        raise UserError(f"attention: xformers cannot run on {q.device.type} here; use `attention: auto` or `sdpa`")
    bias, masked = None, mask is not None
    if mask is not None:
        bias = _mask_bias(mask, q.dtype).expand(q.shape[0], q.shape[2], -1, -1)
    try:
        out: Tensor = fmha.memory_efficient_attention(q, k, v, attn_bias=bias)
    except (NotImplementedError, KeyError) as error:  # KeyError: a dtype that is missing in its tables
        reason = f"head dimension {q.shape[-1]} in {str(q.dtype).removeprefix('torch.')}{' with a mask' * masked}"
        raise UserError(f"attention: xformers has no operator for {reason}; use `attention: sdpa`") from error
    return out


_KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "xformers": _xformers,
    "flex": flex,
    "sdpa": _sdpa,
    "math": _math,
}


def _mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Bias [Lq, Lk] of a mask: 0 or -inf. xformers' kernels need a row stride that is a multiple of 8 numbers."""
    padded = torch.zeros(mask.shape[0], mask.shape[1] + -mask.shape[1] % 8, dtype=dtype, device=mask.device)
    return padded[:, : mask.shape[1]].masked_fill_(~mask, -math.inf)


@functools.cache
def _import_xformers() -> ModuleType | None:
    """`xformers.ops.fmha`, or None.

    The import warns if its C++ extensions do not fit this PyTorch. Attention dispatches to PyTorch's own kernels and
    does not need them, so the warnings are silenced. But xformers would then refuse every tensor: its wheels are built
    for one release of CUDA, and beside a PyTorch for another release it believes that it was built without CUDA.
    Setting its flag corrects that.
    """
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fmha = import_module("xformers.ops.fmha")
    except (ImportError, OSError):
        return None
    finally:
        logger.setLevel(level)
    if torch.version.cuda and fmha.cutlass.FwOp.is_available() and hasattr(fmha.common, "_built_with_cuda"):
        fmha.common._built_with_cuda = True
    return fmha


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)

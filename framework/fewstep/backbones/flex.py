"""FlexAttention: attention as code that PyTorch compiles for its mask, and that skips parts of it that nobody sees.

Shapes: B batch, L tokens (Lq queries, Lk keys), K heads, Dh head dimension.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.core.errors import UserError
from fewstep.predictions.positions import remembered
from fewstep.runtime.compiling import LIMIT, from_compiler

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

log = logging.getLogger("fewstep")


def has_flex(device_type: str) -> bool:
    """Whether FlexAttention can be compiled for a type of device: a GPU with Triton, or a CPU."""
    return device_type == "cpu" or (device_type == "cuda" and find_spec("triton") is not None)


def flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention [B, Lq, K, Dh] of q [B, Lq, K, Dh] to k and v [B, Lk, K, Dh], with a mask [Lq, Lk] or without.

    It is compiled when a shape is first seen, which takes seconds. After `LIMIT` shapes others take PyTorch's SDPA.

    Raises:
        UserError: gradients are asked for on a CPU, or the tensors have no compiled code here.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise UserError("attention: FlexAttention has no gradients on a CPU; use `attention: auto` or `sdpa`")
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if torch.compiler.is_compiling():  # a part of the graph that is being compiled
        return _flex_attention()(q, k, v, block_mask=None if mask is None else _tiles(mask)).transpose(1, 2)
    blocks = None if mask is None else remembered(mask, "tiles", lambda: _tiles(mask.clone()))
    try:
        return _compiled()(q, k, v, block_mask=blocks).transpose(1, 2)
    except Exception as error:
        from torch._dynamo.exc import FailOnRecompileLimitHit

        if isinstance(error, FailOnRecompileLimitHit):
            _say_limit()
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        if not from_compiler(error):
            raise
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"attention: FlexAttention has no code for these tensors here ({reason}); use `attention: auto` or `sdpa`"
        ) from error


def _tiles(mask: Tensor) -> BlockMask:
    """Which tiles of a mask [Lq, Lk] are seen whole, in part or not at all."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask[query, key]

    queries, keys = mask.shape
    return create_block_mask(sees, None, None, queries, keys, device=mask.device)


def _flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention  # type: ignore[return-value]  # its other results have to be asked for


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    import torch._functorch.config

    # Else a backward pass is compiled when it first runs, where no failure could be caught.
    torch._functorch.config.force_non_lazy_backward_lowering = True
    compiled: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]  # its overloads lack two arguments
        _flex_attention(), fullgraph=True, recompile_limit=LIMIT, isolate_recompiles=True
    )
    return compiled


@functools.cache
def _say_limit() -> None:
    log.warning("attention: FlexAttention was compiled for %d shapes; sdpa takes its place for others", LIMIT)

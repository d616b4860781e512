"""Building blocks of the transformers: rotary positions, time conditioning, and the block itself.

Shapes: B batch, L tokens, K heads, Dh head dimension, D width, R rows of modulation (B or 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fewstep.backbones.attention import attention
from fewstep.predictions.keys_values import KeyValues


def rotary_table(coordinates: Tensor, head_dim: int, base: float) -> Tensor:
    """Rotations of rotary position embedding (arXiv 2104.09864); several axes share the head dimension equally.

    Args:
        coordinates: float [L, A], the position of each token on each of A axes.
        head_dim: divisible by 2 A.
        base: the slowest frequency of an axis is about 1 / base radians a step.

    Returns:
        float32 [L, Dh / 2, 2]: cosine and sine of the rotation angle of each pair of channels.
    """
    pairs = head_dim // (2 * coordinates.shape[1])
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = (coordinates.double()[:, :, None] * frequencies).flatten(1)
    return torch.stack((angles.cos(), angles.sin()), -1).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels of `x` [B, L, ..., Dh] by the angles in `table` [L, Dh / 2, 2].

    One complex product reads and writes each number once. The same in real numbers takes six passes, three times the
    time on a CPU. Compilers fuse these passes, and know no complex numbers.
    """
    if torch.compiler.is_compiling():
        return _rotate_pairs(x, table)
    pairs = torch.view_as_complex(x.to(torch.promote_types(x.dtype, torch.float32)).view(*x.shape[:-1], -1, 2))
    turns = torch.view_as_complex(table)
    turns = turns.view(turns.shape[0], *[1] * (x.ndim - 3), turns.shape[1])
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def _rotate_pairs(x: Tensor, table: Tensor) -> Tensor:
    """`rotate` in real numbers."""
    cos, sin = (part.reshape(len(table), *[1] * (x.ndim - 3), -1) for part in table.unbind(-1))
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2).to(x.dtype)


def sinusoids(positions: Tensor, channels: int, *, scale: float, base: float = 10_000.0) -> Tensor:
    """cos and sin of `scale` x positions [N] at frequencies 1 ... 1 / base: float32 [N, channels]."""
    half = math.ceil(channels / 2)
    frequencies = torch.exp(torch.arange(half, device=positions.device) * (-math.log(base) / half))
    angles = positions.float()[:, None] * (scale * frequencies)
    return torch.cat((angles.cos(), angles.sin()), -1)[:, :channels]


def rotate_halves(x: Tensor, table: Tensor) -> Tensor:
    """Rotate channels i and i + Dh / 2 of `x` [B, L, ..., Dh] together by the angles in `table` [L, Dh / 2, 2].

    It is `rotate` up to the order of channels; this order is that of GPT-NeoX and of MDLM's and Duo's code. The
    precision is at least float32: cosines in bfloat16 have two digits, which blurs neighbouring positions.
    """
    shape = (table.shape[0], *[1] * (x.ndim - 3), table.shape[1])
    cos, sin = (part.reshape(shape) for part in table.unbind(-1))
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def in_stream(x: Tensor, precision: str) -> Tensor:
    """Embeddings [B, L, D] where the residual stream begins: bfloat16 for "bf16" under autocast, else unchanged."""
    return x.to(torch.bfloat16) if precision == "bf16" and torch.is_autocast_enabled(x.device.type) else x


def run_block(block: nn.Module, *args: object, recompute: bool) -> Tensor:
    """Call a block; with `recompute` its activations are not stored, and the backward pass computes them again.

    Dropout draws the same numbers the second time, so gradients are those of a plain call.
    """
    if recompute and torch.is_grad_enabled():
        recomputed: Tensor = checkpoint(block, *args, use_reentrant=False)
        return recomputed
    out: Tensor = block(*args)
    return out


def initialise(network: nn.Module) -> None:
    """Normal weights of standard deviation 0.02 for linear layers and embeddings, biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class TimeModulation(nn.Module):
    """Times -> shifts, scales and gates of every block and of the last norm, all in one matrix product.

    adaLN-Zero (DiT, arXiv 2212.09748): the last layer starts at zero, so every block starts as the identity.
    Gates leave zero at the first step, since their gradient comes from the branch that they multiply.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, (6 * depth + 2) * width)

    def forward(self, t: Tensor) -> list[tuple[Tensor, ...]]:
        """`t` [R] -> for each block six tensors [R, D], and two for the last norm (see `modulate`)."""
        # DiT's sinusoids are made for t in [0, 1000].
        hidden = self.embed(sinusoids(t, self.width, scale=1000.0))
        parts = self.out(hidden).unflatten(-1, (-1, self.width)).unbind(-2)
        return [tuple(parts[i : i + 6]) for i in range(0, 6 * self.depth, 6)] + [tuple(parts[-2:])]


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, in one pass."""
    return torch.addcmul(shift, x, 1 + scale)


@dataclass(frozen=True)
class AttentionContext:
    """Inputs of attention that all tokens of one forward pass share.

    Args:
        rotations: [L, Dh / 2, 2].
        backend: implementation of attention.
        mask: BoolTensor [L, P + L], true where a token sees another (see `attention`).
        past: keys and values of earlier tokens, for a single layer.
        first: P.
    """

    rotations: Tensor
    backend: str
    mask: Tensor | None = None
    past: KeyValues | None = None
    first: int = 0


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with time, shifts and scales act on norms and gates on sums.

    The MLP is GELU (exact). SwiGLU of equal size reads and writes more, and memory traffic, not arithmetic, dominates
    the time of small models.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, qk_norm: bool, modulated: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width, elementwise_affine=not modulated)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=not modulated)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.qk_gain = nn.Parameter(torch.ones(2, 1, width // heads)) if qk_norm else None
        self.out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)

    def forward(self, x: Tensor, context: AttentionContext, modulation: tuple[Tensor, ...] | None) -> Tensor:
        """[B, L, D] -> [B, L, D]; `modulation` is six tensors that broadcast over tokens, or None."""
        if modulation is None:
            x = x + self._drop(self._attend(self.norm1(x), context))
            return x + self._drop(self._mlp(self.norm2(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        branch = self._attend(modulate(self.norm1(x), shift1, scale1), context)
        x = torch.addcmul(x, gate1, self._drop(branch))
        branch = self._mlp(modulate(self.norm2(x), shift2, scale2))
        return torch.addcmul(x, gate2, self._drop(branch))

    def _attend(self, x: Tensor, context: AttentionContext) -> Tensor:
        # Queries and keys stay in one tensor until the last moment: one norm and one rotation serve both.
        qk, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).split((2, 1), dim=2)
        if self.qk_gain is not None:
            qk = (F.rms_norm(qk, qk.shape[-1:]) * self.qk_gain).to(v.dtype)
        q, k = rotate(qk, context.rotations).unbind(2)
        v = v.squeeze(2)
        if context.past is not None:
            k, v = context.past.extended(context.first, k, v)
        mixed = attention(q, k, v, backend=context.backend, mask=context.mask)
        out: Tensor = self.out(mixed.flatten(2))
        return out

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp_out(F.gelu(self.mlp_in(x)))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

"""Memory and FLOPs of tensors that are only shapes: what lives when, and what products cost.

Under `FakeTensorMode` operators run without data, so a step of any network is followed in seconds at its real size.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _attention(q: Tensor, k: Tensor, v: Tensor) -> int:
    """FLOPs of the two products of attention; shapes [B, H, L, C]."""
    batch, heads, length, channels = q.shape
    return 2 * int(batch * heads * length * k.shape[2] * (channels + v.shape[3]))


_FORMULAS: dict[object, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_: _attention(q, k, v),
    # Five products: the scores again, and the gradients of values, weights, queries and keys.
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_: 5 * _attention(q, k, v) // 2,
}
"""FLOPs of the CPU's attention, by the tensors that it is called with; PyTorch counts that of GPUs."""

_OUT_OF_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}
"""Products that PyTorch counts under another name."""

_COPIES = (aten.logsumexp,)
"""Operators that make a tensor as large as their first argument within, which no dispatcher sees."""


@dataclass
class _Block:
    """Storage of tensors: its bytes, its part of the step, what was computed when it was made, moments of its life."""

    size: int
    part: str
    stage: str
    begin: int
    end: int | None = None


@dataclass
class Ledger(TorchDispatchMode):
    """Follows every storage that operators make, and counts operators that are no views, and the FLOPs of products.

    `part` names what is computed now.
    """

    part: str = "loss"
    flops: int = 0
    operators: int = 0
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _closed: list[_Block] = field(default_factory=list)
    _clock: int = 0

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        if not isinstance(out, Tensor | list | tuple):
            return out
        self._count(func, args, kwargs or {}, out)
        if func._overloadpacket in _COPIES and isinstance(args[0], Tensor):
            self._passes(args[0].nbytes)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return out

    def _count(self, func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object], out: object) -> None:
        self.operators += not func.is_view
        packet = _OUT_OF_PLACE.get(func._overloadpacket, func._overloadpacket)
        if packet in _FORMULAS:
            self.flops += _FORMULAS[packet](*args)
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._blocks:
            return
        self._clock += 1
        self._blocks[key] = _Block(storage.nbytes(), self.part, self.part, self._clock)
        weakref.finalize(storage, self._close, key).atexit = False

    def _passes(self, size: int) -> None:
        """Count bytes that are taken and given back."""
        self._clock += 2
        self._closed.append(_Block(size, self.part, self.part, self._clock - 1, self._clock))

    def _close(self, key: int) -> None:
        self._clock += 1
        block = self._blocks.pop(key)
        block.end = self._clock
        self._closed.append(block)

    def known(self, tensors: Sequence[Tensor]) -> None:
        """Leave these tensors out; they are counted elsewhere."""
        for tensor in tensors:
            self._blocks.setdefault(tensor.untyped_storage()._cdata, _Block(0, "known", "known", 0))

    def assign(self, tensors: Sequence[Tensor], part: str) -> None:
        """Count the storages of these tensors to another part, from their first moment on."""
        for tensor in tensors:
            block = self._blocks.get(tensor.untyped_storage()._cdata)
            if block is not None and block.part != "known":
                block.part = part

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Within, what is computed belongs to `part`."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def peaks(self, shares: Mapping[str, float] | None = None) -> dict[str, dict[str, float]]:
        """Bytes by part at the moment of each stage of the step (what was computed then) at which most memory lived.

        Args:
            shares: factor of the bytes of a part, for parts of which a rank holds a share.
        """
        factors, events = shares or {}, list[tuple[int, _Block, int]]()
        for block in (*self._closed, *self._blocks.values()):
            if block.part != "known":
                events.append((block.begin, block, 1))
                events.extend([] if block.end is None else [(block.end, block, -1)])
        now, most = dict[str, float](), dict[str, dict[str, float]]()
        for _, block, sign in sorted(events, key=lambda event: event[0]):
            now[block.part] = now.get(block.part, 0.0) + sign * block.size * factors.get(block.part, 1.0)
            if sign > 0 and sum(now.values()) > sum(most.get(block.stage, {}).values()):
                most[block.stage] = dict(now)
        return most

    def peak(self, shares: Mapping[str, float] | None = None) -> dict[str, int]:
        """Bytes by part at the moment at which most memory lived; see `peaks`."""
        return largest(self.peaks(shares))


def largest(peaks: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """Bytes by part in the stage that takes most."""
    peak = max(peaks.values(), key=lambda parts: sum(parts.values()), default={})
    return {part: round(size) for part, size in peak.items() if size}

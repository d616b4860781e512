"""Positions of a mask as one integer index, made once and shared by all that read rows there.

`x[where]` by a mask makes the host wait until the device has counted its true positions, once a call and again in the
backward pass. An index is made once a mask, and a mask of all positions needs none: nothing is gathered or scattered.

Shapes: B batch, L tokens, N selected positions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")

_FACTS = WeakTensorKeyDictionary()
"""What is known of tensors that live: the version of each, and facts by name."""

_SHARE: ContextVar[float | None] = ContextVar("share of a mask without values that is true", default=None)


@dataclass(frozen=True, eq=False)
class Positions:
    """N positions of tokens [B, L], in order.

    Args:
        shape: B and L.
        index: LongTensor [N] into the B L tokens; None for all of them.
    """

    shape: torch.Size
    index: Tensor | None

    @property
    def count(self) -> int:
        """N."""
        return self.shape.numel() if self.index is None else len(self.index)

    def take(self, x: Tensor) -> Tensor:
        """Rows [N, ...] of x [B, L, ...]."""
        flat = x.flatten(0, 1)
        return flat if self.index is None else flat.index_select(0, self.index)

    def put(self, rows: Tensor, base: Tensor | None = None) -> Tensor:
        """`base` [B, L, ...] with rows [N, ...] at these positions; zeros elsewhere without a base."""
        shape = (*self.shape, *rows.shape[1:])
        if self.index is None:
            return rows.view(shape)
        flat = rows.new_zeros(self.shape.numel(), *rows.shape[1:]) if base is None else base.flatten(0, 1)
        return flat.index_copy(0, self.index, rows).view(shape)

    def repeated(self, times: int) -> Positions:
        """The same positions in a batch that is repeated `times` times, one copy after the other."""
        shape = torch.Size((times * self.shape[0], self.shape[1]))
        if self.index is None:
            return Positions(shape, None)
        starts = torch.arange(times, device=self.index.device) * self.shape.numel()
        return Positions(shape, (starts[:, None] + self.index).flatten())


def positions(where: Tensor, inside: Sequence[Tensor] = ()) -> Positions:
    """Positions of the true tokens of a mask (BoolTensor [B, L]); the host waits once, at the first call for the mask.

    Args:
        inside: masks of which `covers` will be asked; the answers come with the same wait.
    """
    count_together([where], [(mask, where) for mask in inside])
    known: Positions = _facts(where)["positions"]
    return known


def count_together(masks: Sequence[Tensor], inside: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
    """Find the positions of several masks (BoolTensor [B, L] each). The host waits once for all that are not known yet.

    Args:
        inside: pairs of masks of which `covers` will be asked; the answers come with the same wait.
    """
    unknown = [mask for mask in masks if "positions" not in _facts(mask)]
    asked = [(mask, where) for mask, where in inside if _covers(mask, where) is None]
    if not unknown and not asked:
        return
    share = _SHARE.get()
    if share is None:
        sums = [mask.sum() for mask in unknown] + [(where & ~mask).any().long() for mask, where in asked]
        numbers = torch.stack(sums).tolist() if len(sums) > 1 else [int(sums[0])]
    else:
        counts = [round(share * _facts(mask).get("part", 1.0) * mask.numel()) for mask in unknown]
        numbers = counts + [0] * len(asked)
    for mask, count in zip(unknown, numbers, strict=False):
        every = count == mask.numel()
        index = None if every else torch.nonzero_static(mask.flatten(), size=count)[:, 0]
        _facts(mask)["positions"] = Positions(mask.shape, index)
    for (mask, where), outside in zip(asked, numbers[len(unknown) :], strict=True):
        _answers(where)[mask] = _version(mask), not outside


def split(where: Tensor, part: Tensor, share: float | None = None) -> tuple[Tensor, Tensor]:
    """The masks where & part and where & ~part; `covers` knows that `where` covers both, and all that covers it.

    Args:
        share: of the true tokens of `where` that the first one has, if masks have no values (`expected_share`).
    """
    pieces = where & part, where & ~part
    for piece in pieces:
        lies_within(piece, where)
    if share is not None and expects_share():
        whole = _facts(where).get("part", 1.0)
        for piece, own in zip(pieces, (share, 1 - share), strict=True):
            _facts(piece)["part"] = own * whole
    return pieces


def lies_within(part: Tensor, where: Tensor) -> None:
    """Note that `where` covers a mask that was made from it, and so does every mask that is known to cover `where`."""
    _answers(part).update(_answers(where))
    _answers(part)[where] = _version(where), True


@contextmanager
def expected_share(share: float) -> Iterator[None]:
    """Within, masks have no values, and all are taken for one mask that is true at `share` of its tokens.

    So the shapes of a step are known when its tensors are only shapes.
    """
    token = _SHARE.set(share)
    try:
        yield
    finally:
        _SHARE.reset(token)


def expects_share() -> bool:
    """Whether `expected_share` says how many positions masks have."""
    return _SHARE.get() is not None


def covers(mask: Tensor, where: Tensor) -> bool:
    """Whether every true position of `where` is one of `mask`; both BoolTensor [B, L]."""
    if _covers(mask, where) is None:
        positions(where, [mask])
    return bool(_covers(mask, where))


def _covers(mask: Tensor, where: Tensor) -> bool | None:
    """The answer, or None if it is not known yet."""
    whole: Positions | None = _facts(mask).get("positions")
    if mask is where or (whole is not None and whole.index is None):
        return True
    version, answer = _answers(where).get(mask, (None, None))
    return answer if version == _version(mask) else None


def everywhere(like: Tensor) -> Tensor:
    """A mask of all tokens (BoolTensor [B, L]) of which that is known, so that nothing waits for it."""
    return known_mask(Positions(like.shape[:2], None), like.device)


def nowhere(like: Tensor) -> Tensor:
    """A mask of no token (BoolTensor [B, L]) of which that is known."""
    none = torch.empty(0, dtype=torch.long, device=like.device)
    return known_mask(Positions(like.shape[:2], none), like.device)


def of_samples(where: Tensor, samples: slice) -> Tensor:
    """The mask of these samples; if `where` is known to be of all tokens, so is its part."""
    known: Positions | None = _facts(where).get("positions")
    part = where[samples]
    return everywhere(part) if known is not None and known.index is None else part


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """The mask a & b (BoolTensor [B, L]); one of the two itself, if it is known to be covered by the other."""
    if _covers(a, b):
        return b
    return a if _covers(b, a) else a & b


def difference(a: Tensor, b: Tensor) -> Tensor:
    """The mask a & ~b (BoolTensor [B, L]), known to be empty if b is known to cover a.

    Where b is known to lie within a, and both are counted, the positions of the difference are known too.
    """
    if _covers(b, a):
        return nowhere(a)
    rest = a & ~b
    lies_within(rest, a)
    whole, part = (_facts(mask).get("positions") for mask in (a, b))
    if whole and part and _covers(a, b) and _SHARE.get() is None:
        index = torch.nonzero_static(rest.flatten(), size=whole.count - part.count)[:, 0]
        _facts(rest)["positions"] = Positions(rest.shape, index)
    return rest


def known_mask(places: Positions, device: torch.device) -> Tensor:
    """The mask (BoolTensor [B, L]) of positions that are known."""
    if places.index is None:
        where = torch.ones(places.shape, dtype=torch.bool, device=device)
    else:
        where = torch.zeros(places.shape, dtype=torch.bool, device=device)
        where.view(-1).index_fill_(0, places.index, True)
    _facts(where)["positions"] = places
    return where


def remembered(tensor: Tensor, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returns for a tensor: made once, as long as the tensor lives and does not change.

    The result must not refer to the tensor, which would then live for ever.
    """
    facts = _facts(tensor)
    if key not in facts:
        facts[key] = make()
    value: T = facts[key]
    return value


def remember(tensor: Tensor, key: Hashable, value: object) -> None:
    """Give a tensor what `remembered` would make. The value must not refer to the tensor."""
    _facts(tensor)[key] = value


def _answers(where: Tensor) -> MutableMapping[Tensor, tuple[int, bool]]:
    """Of each mask that was asked about: its version then, and whether it covers `where`."""
    answers: MutableMapping[Tensor, tuple[int, bool]] = _facts(where).setdefault("inside", WeakTensorKeyDictionary())
    return answers


def _facts(tensor: Tensor) -> dict[Hashable, Any]:
    version = _version(tensor)
    before = _FACTS.get(tensor)
    if before is None or before[0] != version:
        before = _FACTS[tensor] = (version, {})
    facts: dict[Hashable, Any] = before[1]
    return facts


def _version(tensor: Tensor) -> int:
    """Number of changes in place; inference tensors do not count theirs."""
    return 0 if tensor.is_inference() else tensor._version

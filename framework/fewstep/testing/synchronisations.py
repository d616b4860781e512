"""Counts the operators at which a GPU would make the host wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::masked_scatter_backward",
    "aten::equal",
    "aten::unique_dim",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::repeat_interleave",
    "aten::bincount",
}
"""Operators that read a value on the host, or whose result has a shape that depends on values."""
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operators that do so if an index is a mask."""


class Synchronisations(TorchDispatchMode):
    """Within, counts the operators that would wait for a GPU, by name.

    It sees what a backward pass runs, too. Tensors that stay on the CPU beside a GPU count like all others.
    `Tensor.tolist` is no operator on a CPU, so it is counted by itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self._tolist = Tensor.tolist

    def __enter__(self) -> Synchronisations:
        plain = self._tolist = Tensor.tolist

        def counted(tensor: Tensor) -> object:
            self.counts["tolist"] += 1
            return plain(tensor)

        Tensor.tolist = counted  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        Tensor.tolist = self._tolist  # type: ignore[method-assign]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        name = func._schema.name
        if name in _WAITS and not (name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is not None):
            self.counts[name] += 1
        elif name in _INDEXING and any(index is not None and index.dtype == torch.bool for index in _indices(args)):
            self.counts[f"{name} by a mask"] += 1
        return func(*args, **(kwargs or {}))


def _indices(args: tuple[object, ...]) -> Sequence[Tensor | None]:
    """The indices of an indexing operator, one each dimension."""
    return cast("Sequence[Tensor | None]", args[1])


def count(fn: Callable[[], object]) -> Counter[str]:
    """What `fn` waits for."""
    with Synchronisations() as seen:
        fn()
    return seen.counts

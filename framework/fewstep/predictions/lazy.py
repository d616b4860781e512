"""Values of tokens that are computed when they are read.

A loss is a weighted mean of them, and with its weights known beforehand its gradient costs no second pass
(`predictions.evaluation`). Objectives write `ctx.mean(weight * prediction.nll(x))`: the product waits for the mean.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NotImplementedType
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fewstep.predictions.evaluation import Evaluation, weighted_sum

Operand: TypeAlias = Tensor | float
Result: TypeAlias = "Tensor | NotImplementedType"
"""NotImplemented for operands that are read as the tensors that they are."""

Term = tuple[Tensor | None, Evaluation]
"""Weights of tokens, which broadcast to [B, L] (None: all 1), and what they multiply."""


class LazyValues(Tensor):
    """A tensor [B, L] that is a weighted sum of values of rows, and computed when it is read.

    It stays lazy under products with constants, sums and differences of such tensors, and `masked_fill` by 0. Its sum
    or mean over all tokens is computed at once with its gradient. Anything else reads it as the tensor that it is.

    Args:
        terms: weights and evaluations.
        constant: tensor [B, L] without gradient that is added, or None.
    """

    _terms: tuple[Term, ...]
    _constant: Tensor | None

    @staticmethod
    def __new__(cls, terms: Sequence[Term], constant: Tensor | None = None) -> LazyValues:
        shape, source = terms[0][1].positions.shape, terms[0][1].sources[0]
        lazy = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=source.device)  # type: ignore[attr-defined]
        lazy._terms, lazy._constant = tuple(terms), constant
        return lazy  # type: ignore[no-any-return]

    def __init__(self, terms: Sequence[Term], constant: Tensor | None = None) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        operation = _OPERATIONS.get(getattr(func, "__name__", ""))
        if operation is not None and not kwargs:
            with torch._C.DisableTorchFunctionSubclass():
                result = operation(*args)
            if result is not NotImplemented:
                return result
        return _call(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        return _call(func, args, kwargs)


def read(values: LazyValues) -> Tensor:
    """The tensor [B, L], with its gradient if gradients are enabled."""
    return _combined(values, Evaluation.tensor)


def _call(func: Callable[..., object], args: Sequence[object], kwargs: dict[str, object] | None) -> object:
    """The operator on the tensors that its arguments are."""
    return func(*tree_map(_read, tuple(args)), **tree_map(_read, kwargs or {}))


def _read(value: object) -> object:
    return read(value) if isinstance(value, LazyValues) else value


def _combined(values: LazyValues, of: Callable[[Evaluation], Tensor]) -> Tensor:
    total = values._constant
    for weights, evaluation in values._terms:
        term = of(evaluation) if weights is None else _product(weights, of(evaluation))
        total = term if total is None else total + term
    assert total is not None
    return total


def _product(weights: Tensor, values: Tensor) -> Tensor:
    """Weights times values; 0 for a weight of 0 whatever the value, as after `masked_fill`."""
    return torch.where(weights == 0, 0.0, weights * values)


def _times(a: Operand, b: Operand) -> Result:
    values, factor = _lazy_first(a, b)
    if not _is_constant(factor, values):
        return NotImplemented
    return _scaled(values, lambda x: x * factor)


def _divided(values: Operand, divisor: Operand) -> Result:
    if not isinstance(values, LazyValues) or not _is_constant(divisor, values):
        return NotImplemented
    return _scaled(values, lambda x: x / divisor)


def _added(a: Operand, b: Operand) -> Result:
    if isinstance(a, LazyValues) and isinstance(b, LazyValues):
        if a._terms[0][1].positions.shape != b._terms[0][1].positions.shape:
            return NotImplemented
        constants = [x for x in (a._constant, b._constant) if x is not None]
        return LazyValues((*a._terms, *b._terms), sum(constants[1:], constants[0]) if constants else None)
    values, other = _lazy_first(a, b)
    if not _is_constant(other, values):
        return NotImplemented
    if not isinstance(other, Tensor):
        if other == 0:  # of Python's sum
            return values
        other = _as_tensor(other, values._terms[0][1])
    return LazyValues(values._terms, other if values._constant is None else values._constant + other)


def _subtracted(a: Operand, b: Operand) -> Result:
    minus = _times(b, -1) if isinstance(b, LazyValues) else -b
    return NotImplemented if minus is NotImplemented else _added(a, minus)


def _masked(values: Operand, mask: Operand, value: Operand) -> Result:
    if not isinstance(values, LazyValues) or not isinstance(mask, Tensor) or isinstance(value, Tensor):
        return NotImplemented
    if value != 0 or not _is_constant(mask, values):
        return NotImplemented
    return _scaled(values, lambda x: torch.where(mask, 0.0, x))


def _summed(values: LazyValues, *dimensions: object) -> Result:
    """The sum over all tokens, for whose weights the gradient is formed at once."""
    if dimensions:
        return NotImplemented
    weights = dict[int, tuple[Evaluation, Tensor]]()
    for own, evaluation in values._terms:
        factor = _as_tensor(1.0, evaluation) if own is None else own
        before = weights.get(id(evaluation))
        weights[id(evaluation)] = evaluation, factor if before is None else before[1] + factor
    total = weighted_sum(list(weights.values()))
    if values._constant is not None:
        total = total + values._constant.expand(values._terms[0][1].positions.shape).sum()
    return total


def _averaged(values: LazyValues, *dimensions: object) -> Result:
    total = _summed(values, *dimensions)
    count = values._terms[0][1].positions.shape.numel()
    return torch.div(total, count) if isinstance(total, Tensor) else total


def _detached(values: LazyValues) -> Tensor:
    return _combined(values, Evaluation.values)


_OPERATIONS: dict[str, Callable[..., Result]] = {
    "mul": _times,
    "div": _divided,
    "true_divide": _divided,
    "add": _added,
    "sub": _subtracted,
    "neg": lambda values: _times(values, -1),
    "masked_fill": _masked,
    "sum": _summed,
    "mean": _averaged,
    "detach": _detached,
}


def _lazy_first(a: Operand, b: Operand) -> tuple[LazyValues, Operand]:
    """The operands of a symmetric operator, of which at least one is lazy."""
    if isinstance(a, LazyValues):
        return a, b
    assert isinstance(b, LazyValues)
    return b, a


def _is_constant(value: Operand, values: LazyValues) -> bool:
    """Whether a value has no gradient and broadcasts to the shape of the tokens."""
    if isinstance(value, LazyValues):
        return False
    if not isinstance(value, Tensor):
        return isinstance(value, int | float)
    shape = values._terms[0][1].positions.shape
    fits = value.ndim <= 2 and all(n in (1, m) for n, m in zip(reversed(value.shape), reversed(shape), strict=False))
    return fits and not value.requires_grad


def _scaled(values: LazyValues, scale: Callable[[Tensor], Tensor]) -> LazyValues:
    """The values with all weights, and the constant, changed by a linear map."""
    terms = [(scale(_as_tensor(1.0, own_of) if own is None else own), own_of) for own, own_of in values._terms]
    return LazyValues(terms, None if values._constant is None else scale(values._constant))


def _as_tensor(value: float, evaluation: Evaluation) -> Tensor:
    return torch.full((), value, device=evaluation.sources[0].device)  # no copy to the device

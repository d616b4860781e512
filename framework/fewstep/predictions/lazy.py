"""Values of tokens that are computed when they are read.

A loss is a weighted mean of them, and with its weights known beforehand its gradient costs no second pass
(`predictions.evaluation`). Objectives write `ctx.mean(weight * prediction.nll(x))`: the product waits for the mean.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fewstep.predictions.evaluation import Evaluation

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
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operation = _OPERATIONS.get(getattr(func, "__name__", ""))
        if operation is not None and not kwargs:
            with torch._C.DisableTorchFunctionSubclass():
                result = operation(*args)
            if result is not NotImplemented:
                return result
        return func(*tree_map(_read, tuple(args)), **tree_map(_read, kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*tree_map(_read, tuple(args)), **tree_map(_read, kwargs or {}))


def read(values: LazyValues) -> Tensor:
    """The tensor [B, L], with its gradient if gradients are enabled."""
    return _combined(values, Evaluation.tensor)


def _read(value: Any) -> Any:
    return read(value) if isinstance(value, LazyValues) else value


def _combined(values: LazyValues, of: Callable[[Evaluation], Tensor]) -> Tensor:
    total = values._constant
    for weights, evaluation in values._terms:
        term = of(evaluation) if weights is None else _product(weights, of(evaluation))
        total = term if total is None else total + term
    assert total is not None
    return total


def _product(weights: Tensor | float, values: Tensor) -> Tensor:
    """Weights times values; 0 for a weight of 0 whatever the value, as after `masked_fill`."""
    return torch.where(weights == 0, 0.0, weights * values) if isinstance(weights, Tensor) else weights * values


def _times(a: Any, b: Any) -> Any:
    values, factor = (a, b) if isinstance(a, LazyValues) else (b, a)
    if not _constant(factor, values):
        return NotImplemented
    return _scaled(values, lambda x: factor if x is None else x * factor, lambda x: x * factor)


def _divided(values: Any, divisor: Any) -> Any:
    if not isinstance(values, LazyValues) or not _constant(divisor, values):
        return NotImplemented
    return _scaled(values, lambda x: 1 / divisor if x is None else x / divisor, lambda x: x / divisor)


def _added(a: Any, b: Any) -> Any:
    if isinstance(a, LazyValues) and isinstance(b, LazyValues):
        if a._terms[0][1].positions.shape != b._terms[0][1].positions.shape:
            return NotImplemented
        constants = [x for x in (a._constant, b._constant) if x is not None]
        return LazyValues((*a._terms, *b._terms), sum(constants[1:], constants[0]) if constants else None)
    values, other = (a, b) if isinstance(a, LazyValues) else (b, a)
    if not _constant(other, values):
        return NotImplemented
    if not isinstance(other, Tensor) and other == 0:  # of Python's sum
        return values
    return LazyValues(values._terms, other if values._constant is None else values._constant + other)


def _subtracted(a: Any, b: Any) -> Any:
    minus = _times(b, -1) if isinstance(b, LazyValues) else (-b if _constant(b, a) else NotImplemented)
    return NotImplemented if minus is NotImplemented else _added(a, minus)


def _masked(values: Any, mask: Any, value: Any) -> Any:
    if not isinstance(values, LazyValues) or value != 0 or not _constant(mask, values):
        return NotImplemented
    return _scaled(
        values,
        lambda x: (~mask).to(torch.float32) if x is None else torch.where(mask, 0.0, x),
        lambda x: torch.where(mask, 0.0, x),
    )


def _summed(values: Any, *dimensions: Any) -> Any:
    """The sum over all tokens, for whose weights the gradient is formed at once."""
    if dimensions:
        return NotImplemented
    totals, weights = [], dict[int, tuple[Evaluation, Tensor]]()
    for own, evaluation in values._terms:
        factor = torch.ones((), device=evaluation.sources[0].device) if own is None else _as_tensor(own, evaluation)
        before = weights.get(id(evaluation))
        weights[id(evaluation)] = evaluation, factor if before is None else before[1] + factor
    totals = [evaluation.weighted_sum(factor) for evaluation, factor in weights.values()]
    if values._constant is not None:
        first = values._terms[0][1]
        totals.append(_as_tensor(values._constant, first).expand(first.positions.shape).sum())
    return sum(totals[1:], totals[0])


def _averaged(values: Any, *dimensions: Any) -> Any:
    total = _summed(values, *dimensions)
    return total if total is NotImplemented else total / values._terms[0][1].positions.shape.numel()


def _detached(values: Any) -> Tensor:
    return _combined(values, Evaluation.values)


_OPERATIONS: dict[str, Callable[..., Any]] = {
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


def _constant(value: Any, values: LazyValues) -> bool:
    """Whether a value has no gradient and broadcasts to the shape of the tokens."""
    if isinstance(value, LazyValues):
        return False
    if not isinstance(value, Tensor):
        return isinstance(value, int | float)
    shape = values._terms[0][1].positions.shape
    fits = value.ndim <= 2 and all(n in (1, m) for n, m in zip(reversed(value.shape), reversed(shape), strict=False))
    return fits and not value.requires_grad


def _scaled(values: LazyValues, weights: Callable[[Any], Any], constant: Callable[[Tensor], Tensor]) -> LazyValues:
    terms = [(weights(own), evaluation) for own, evaluation in values._terms]
    return LazyValues(terms, None if values._constant is None else constant(values._constant))


def _as_tensor(value: Tensor | float, evaluation: Evaluation) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, device=evaluation.sources[0].device)

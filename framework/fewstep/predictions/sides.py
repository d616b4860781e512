"""The sides of an evaluation of rows: how each prediction's rows are computed, and where their gradients go.

Shapes: B batch, L tokens, V vocabulary, N rows, n rows of a chunk, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class RowSource(Protocol):
    """What an evaluation needs of a prediction (`Prediction`)."""

    known: Tensor
    where: Tensor
    shaping: tuple[Callable[[Tensor], Tensor], ...]

    def source(self, where: Tensor) -> Tensor: ...
    def rows(self, source: Tensor) -> Tensor: ...
    def affine(self) -> tuple[Tensor, Tensor | None] | None: ...
    def chunk_rows(self) -> int: ...


class Head:
    """A prediction with an affine head; gradients of its weights are sums over chunks.

    Under autocast products are of its type, as everywhere, and sums of the weight's.
    """

    def __init__(self, prediction: RowSource, source: Tensor, affine: tuple[Tensor, Tensor | None]) -> None:
        self.source, self.shaping, (self.weight, self.bias) = source, prediction.shaping, affine
        self.inputs = [x for x in (source, *affine) if x is not None and x.requires_grad]
        self.differentiable = bool(self.inputs) and Tensor.detach not in self.shaping
        device = source.device.type
        autocast = torch.is_autocast_enabled(device) and source.dtype != torch.float64
        whole = torch.promote_types(source.dtype, self.weight.dtype)  # frozen weights may be in bfloat16
        self._type = torch.get_autocast_dtype(device) if autocast else whole
        self._weight = self.weight.detach().to(self._type)
        self._bias = None if self.bias is None else self.bias.detach().to(self._type)
        self._of_source: Tensor | None = None
        self._of_weight: Tensor | None = None
        self._of_bias: Tensor | None = None

    def log_probs(self, part: slice) -> Tensor:
        """Rows [n, V] before the row maps."""
        logits = F.linear(self.source.detach()[part].to(self._type), self._weight, self._bias)
        return logits.to(at_least_float32(logits.dtype)).log_softmax(-1)

    def shaped(self, log_p: Tensor) -> Tensor:
        for row_map in self.shaping:
            log_p = row_map(log_p)
        return log_p

    def open(self, part: slice) -> tuple[Tensor, Tensor | None]:
        """Rows of a chunk, and the tensor that they are differentiated by."""
        log_p = self.log_probs(part)
        if not self.differentiable:
            return self.shaped(log_p), None
        log_p.requires_grad_()
        return self.shaped(log_p), log_p

    def close(self, part: slice, log_p: Tensor, gradient: Tensor) -> None:
        """Take the gradient [n, V] by log-probabilities; that by logits is it less p times its sum."""
        p = log_p.detach().exp_() if log_p.grad_fn is None else log_p.detach().exp()
        self.take(part, torch.addcmul(gradient, p, gradient.sum(-1, keepdim=True), value=-1))

    def take(self, part: slice, gradient: Tensor, weights: Tensor | None = None) -> None:
        """Add products with the gradient of the logits [n, V], each row times its weight [n]."""
        hidden, typed = self.source.detach()[part], gradient.to(self._type)
        if self.source.requires_grad:
            product = (typed @ self._weight).to(hidden.dtype)
            if self._of_source is None:
                self._of_source = torch.empty_like(self.source)
            self._of_source[part] = product if weights is None else product * weights[:, None].to(product.dtype)
        if self.weight.requires_grad:
            scaled = hidden if weights is None else hidden * weights[:, None].to(hidden.dtype)
            self._of_weight = _add_product(self._of_weight, typed.T, scaled.to(self._type))
        if self.bias is not None and self.bias.requires_grad:
            ones = gradient.new_ones(len(gradient)) if weights is None else weights.to(gradient.dtype)
            product = gradient.T @ ones
            self._of_bias = product if self._of_bias is None else self._of_bias.add_(product)

    def gradients(self) -> list[Tensor]:
        """Of `inputs`, in their order and types."""
        pairs = (self.source, self._of_source), (self.weight, self._of_weight), (self.bias, self._of_bias)
        sums = [(x, total) for x, total in pairs if x is not None and x.requires_grad]
        return [torch.zeros_like(x) if total is None else total.to(x.dtype) for x, total in sums]

    def connected(self) -> Tensor:
        """Rows [N, V] as a function of `inputs`."""
        logits = F.linear(self.source, self.weight, self.bias)
        return self.shaped(logits.to(at_least_float32(logits.dtype)).log_softmax(-1))


class Opaque:
    """A prediction whose rows are some function of its source, and of parameters that its graph names."""

    def __init__(self, prediction: RowSource, source: Tensor) -> None:
        self.prediction, self.source = prediction, source
        self.inputs = [source] if source.requires_grad else []
        self._of_source: Tensor | None = None

    def open(self, part: slice) -> tuple[Tensor, Tensor | None]:
        source = self.source.detach()[part]
        if not self.inputs:
            return self.prediction.rows(source), None
        source.requires_grad_()
        return self.prediction.rows(source), source

    def close(self, part: slice, source: Tensor, gradient: Tensor) -> None:
        if self._of_source is None:
            self._of_source = torch.zeros_like(self.source)
        self._of_source[part] = gradient

    def gradients(self) -> list[Tensor]:
        if not self.inputs:
            return []
        return [torch.zeros_like(self.source) if self._of_source is None else self._of_source]

    def connected(self) -> Tensor:
        return self.prediction.rows(self.source)


def differentiable(side: Head | Opaque) -> bool:
    """Whether rows of the prediction have a gradient; of an opaque one its first row shows it."""
    if isinstance(side, Head):
        return side.differentiable
    with torch.enable_grad():
        return side.prediction.rows(side.source[:1]).requires_grad


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type that rows and sums have for values of a type: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a @ b, summed in float32 at least; the total is overwritten."""
    dtype = at_least_float32(a.dtype)
    if dtype != a.dtype:
        product = (a @ b).to(dtype)
        return product if total is None else total.add_(product)
    return a @ b if total is None else total.addmm_(a, b)

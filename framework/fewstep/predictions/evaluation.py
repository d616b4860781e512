"""Evaluation of a function of rows: values of tokens, or one weighted sum of them with its gradient.

A row has V symbols, so a loss is bound by its passes over rows and by the memory that they take. A weighted sum is
computed in chunks of rows, and the gradient of each chunk's logits is formed at once: nothing of [N, V] outlives its
chunk, and the backward pass recomputes nothing. That needs the weights of the values beforehand, which a sum has.

* Where a head is affine, the gradients by hidden states, weight and bias are products with the gradient of the logits.
  Weight and bias are summed over chunks in float32 at least, also under autocast.
* A `RowLoss` brings the gradient of its logits; any other function is differentiated chunk by chunk.
* Other heads are differentiated from hidden states on; their parameters are looked up in the graph of a chunk, as are
  parameters that the function itself reads.

Shapes: B batch, L tokens, V vocabulary, N rows, n rows of a chunk, D width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint

from fewstep.predictions.positions import covers, expects_share, positions
from fewstep.predictions.row_losses import RowLoss
from fewstep.predictions.sides import Head, Opaque, RowSource, at_least_float32, differentiable

RowFunction = Callable[..., Tensor]


RowStep = Callable[..., tuple[Tensor, Tensor]]
"""A `RowLoss`, its rows and extras -> values [n] and gradient [n, V]."""

_STEP: ContextVar[RowStep | None] = ContextVar("step of row losses", default=None)


def with_gradient(loss: RowLoss, *rows: Tensor) -> tuple[Tensor, Tensor]:
    """`loss.with_gradient`, as a function that can be compiled."""
    return loss.with_gradient(*rows)


@contextmanager
def row_steps_by(step: RowStep) -> Iterator[None]:
    """Within, `step` takes the place of `with_gradient`."""
    token = _STEP.set(step)
    try:
        yield
    finally:
        _STEP.reset(token)


class Evaluation:
    """A function of the rows at N positions, not yet computed. See `rowwise` for the arguments."""

    def __init__(
        self, fn: RowFunction, predictions: Sequence[RowSource], extras: Sequence[Tensor], where: Tensor
    ) -> None:
        self.fn, self.predictions = fn, list(predictions)
        self.positions = positions(where, [p.where for p in predictions])
        self.sources = [p.source(where) for p in predictions]
        self.carried = [self._carried(p, where) for p in predictions]
        self.extras = [self.positions.take(extra) for extra in extras]
        self._values: Tensor | None = None
        self._tensor: Tensor | None = None

    def _carried(self, prediction: RowSource, where: Tensor) -> Tensor | None:
        """Ids [N] of the carried-over tokens, -1 for predicted ones; None if all are predicted."""
        if covers(prediction.where, where):
            return None
        return self.positions.take(torch.where(prediction.where, -1, prediction.known))

    def values(self) -> Tensor:
        """Values of tokens [B, L], without gradient; zero elsewhere."""
        if self._values is None:
            with torch.no_grad():
                self._values = self.positions.put(self._rowwise(lambda run, *part: run(*part)))
        return self._values

    def tensor(self) -> Tensor:
        """Values of tokens [B, L] with their gradient; chunks are recomputed in the backward pass."""
        if not torch.is_grad_enabled():
            return self.values()
        if self._tensor is None:
            rows = self._rowwise(lambda run, *part: checkpoint(run, *part, use_reentrant=False))
            self._tensor = self.positions.put(rows)
            self._values = self._tensor.detach()
        return self._tensor

    def parts(self) -> list[slice]:
        """Chunks of the rows; one without rows if there are none."""
        rows, size = self.positions.count, min(p.chunk_rows() for p in self.predictions)
        count = max(1, math.ceil(rows / size))
        ends = [rows * number // count for number in range(count + 1)]
        if expects_share():  # a batch of fewer rows may fill a chunk, and a plan is of what is largest
            ends = [*range(0, max(rows, 1), size), rows]
        return [slice(begin, end) for begin, end in pairwise(ends)]

    def _rowwise(self, call: Callable[..., Tensor]) -> Tensor:
        """Values [N]; `call` runs each chunk if there are several."""

        def run(part: slice, *sources: Tensor) -> Tensor:
            rows = [p.rows(source) for p, source in zip(self.predictions, sources, strict=True)]
            return self.apply(rows, part)

        parts = self.parts()
        if len(parts) == 1:
            return run(parts[0], *self.sources)
        return torch.cat([call(run, part, *(source[part] for source in self.sources)) for part in parts])

    def apply(self, rows: list[Tensor], part: slice) -> Tensor:
        """Values [n] of the function for the rows of a chunk."""
        return self.fn(*self.complete(rows, part), *(extra[part] for extra in self.extras))

    def complete(self, rows: list[Tensor], part: slice) -> list[Tensor]:
        """Rows [n, V] of a chunk with those of carried-over tokens in place."""
        pairs = zip(rows, self.carried, strict=True)
        return [row if ids is None else carried_over(row, ids[part]) for row, ids in pairs]


def weighted_sum(terms: Sequence[tuple[Evaluation, Tensor]]) -> Tensor:
    """sum_k sum_n w_kn value_kn, a scalar, for constant weights of tokens [B, L]; its gradient is already formed.

    Losses of several networks at the same positions read each other's rows. Those of a chunk are computed once for all
    of them.
    """
    runs = [_Run(evaluation, weights) for evaluation, weights in terms]
    total = torch.stack([value for group in _groups(runs) for value in _summed(group)]).sum()
    inputs, gradients = list[Tensor](), list[Tensor]()
    for run in runs:
        own, of_own = run.gradients()
        inputs, gradients = inputs + own, gradients + of_own
    if not inputs:
        return total
    return _Known.apply(  # type: ignore[no-any-return]
        total, gradients, lambda: torch.stack([run.again() for run in runs]).sum(), *inputs
    )


def _groups(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Runs that go through their chunks together: their gradients are written out, each by the rows of a network."""
    groups: list[list[_Run]] = []
    for run in runs:
        for group in groups:
            if run.joins(group):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


@torch.no_grad()
def _summed(group: Sequence[_Run]) -> list[Tensor]:
    """The weighted sum of each run of a group; its values are those of its evaluation from now on."""
    uses = Counter(key for run in group for key in run.keys)
    values: list[list[Tensor]] = [[] for _ in group]
    for part in min((run.evaluation.parts() for run in group), key=lambda parts: parts[0].stop):
        rows = _ChunkRows(part, uses)
        for run, own in zip(group, values, strict=True):
            own.append(run.chunk(part, rows))
    return [run.finish(torch.cat(own)) for run, own in zip(group, values, strict=True)]


class _ChunkRows:
    """Rows [n, V] of a chunk: each prediction's are computed once, and whoever reads them may write over them."""

    def __init__(self, part: slice, uses: Counter[int]) -> None:
        self.part, self._left, self._rows = part, Counter(uses), dict[int, Tensor]()

    def of(self, key: int, side: Head | Opaque) -> Tensor:
        """Rows of the prediction with this key."""
        self._left[key] -= 1
        rows = self._rows.pop(key, None)
        if rows is None:
            rows = side.open(self.part)[0].detach()
        if self._left[key]:
            self._rows[key] = rows.clone()
        return rows


class _Run:
    """One pass over the chunks of a weighted sum."""

    def __init__(self, evaluation: Evaluation, weights: Tensor) -> None:
        self.evaluation = evaluation
        self.weights = evaluation.positions.take(weights.expand(evaluation.positions.shape))
        self.keys = [id(prediction) for prediction in evaluation.predictions]
        self.sides: list[Head | Opaque] = []
        for prediction, source in zip(evaluation.predictions, evaluation.sources, strict=True):
            affine = prediction.affine()
            self.sides.append(Opaque(prediction, source) if affine is None else Head(prediction, source, affine))
        self.parameters: dict[int, tuple[Tensor, Tensor]] = {}
        self.loss = self._written_out()

    def joins(self, group: Sequence[_Run]) -> bool:
        """Whether it can share the chunks of a group: at the same positions, with a gradient of another network."""
        first = group[0]
        same = first.evaluation.positions is self.evaluation.positions
        written = first.loss is not None and self.loss is not None
        return same and written and self.keys[0] not in [run.keys[0] for run in group]

    def finish(self, values: Tensor) -> Tensor:
        """The weighted sum of values [N]."""
        self.evaluation._values = self.evaluation.positions.put(values)
        # A weight of 0 counts for nothing also where a value is not finite.
        return torch.where(self.weights == 0, 0.0, values * self.weights).sum()

    def _written_out(self) -> RowLoss | None:
        """The function, if the gradient that it brings is all that there is."""
        loss, first, others = self.evaluation.fn, self.sides[0], self.sides[1:]
        if not isinstance(loss, RowLoss) or not isinstance(first, Head) or first.shaping:
            return None
        if self.evaluation.carried[0] is not None or not first.differentiable:
            return None
        return loss if loss.constants or not any(map(differentiable, others)) else None

    def chunk(self, part: slice, shared: _ChunkRows) -> Tensor:
        """Values [n] of a chunk, whose gradients are added."""
        return self._by_autograd(part) if self.loss is None else self._by_hand(self.loss, part, shared)

    def _by_hand(self, loss: RowLoss, part: slice, shared: _ChunkRows) -> Tensor:
        head = self.sides[0]
        assert isinstance(head, Head)
        rows = [shared.of(key, side) for key, side in zip(self.keys, self.sides, strict=True)]
        extras = (extra[part] for extra in self.evaluation.extras)
        values, gradient = (_STEP.get() or with_gradient)(loss, *self.evaluation.complete(rows, part), *extras)
        head.take(part, gradient, self.weights[part])
        return values

    @torch.enable_grad()
    def _by_autograd(self, part: slice) -> Tensor:
        opened = [side.open(part) for side in self.sides]
        values = self.evaluation.apply([rows for rows, _ in opened], part)
        if values.requires_grad:
            leaves = [leaf for _, leaf in opened if leaf is not None]
            parameters = _parameters(values, leaves)
            weights = self.weights[part].to(values.dtype)
            gradients = torch.autograd.grad(
                values, [*leaves, *parameters], weights, retain_graph=True, allow_unused=True
            )
            with torch.no_grad():
                self._add(part, opened, parameters, gradients)
        return values.detach()

    def _add(
        self,
        part: slice,
        opened: list[tuple[Tensor, Tensor | None]],
        parameters: list[Tensor],
        gradients: tuple[Tensor | None, ...],
    ) -> None:
        remaining = iter(gradients)
        for side, (_, leaf) in zip(self.sides, opened, strict=True):
            gradient = None if leaf is None else next(remaining)
            if leaf is not None and gradient is not None:
                side.close(part, leaf, gradient)
        for parameter, gradient in zip(parameters, remaining, strict=True):
            if gradient is None:
                continue
            if id(parameter) in self.parameters:
                self.parameters[id(parameter)][1].add_(gradient)
            else:
                self.parameters[id(parameter)] = parameter, gradient.to(at_least_float32(gradient.dtype), copy=True)

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Tensors with a gradient, and the gradients of the weighted sum by them."""
        sides = self.sides if self.loss is None else self.sides[:1]
        inputs = [x for side in sides for x in side.inputs] + [x for x, _ in self.parameters.values()]
        gradients = [g for side in sides for g in side.gradients()]
        return inputs, gradients + [total.to(x.dtype) for x, total in self.parameters.values()]

    def again(self) -> Tensor:
        """The weighted sum as a function of all inputs, for derivatives of its gradient."""
        rows = [side.connected() for side in self.sides]
        values = self.evaluation.apply(rows, slice(0, self.evaluation.positions.count))
        return (values * self.weights).sum()


class _Saved(FunctionCtx):
    """What the backward pass of `_Known` needs."""

    gradients: list[Tensor] | None
    again: Callable[[], Tensor]
    inputs: tuple[Tensor, ...]


class _Known(torch.autograd.Function):
    """A scalar whose gradient is already formed.

    A gradient that is itself differentiated, or taken a second time, is computed from the rows again.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: _Saved, total: Tensor, gradients: list[Tensor], again: Callable[[], Tensor], *inputs: Tensor
    ) -> Tensor:
        ctx.gradients, ctx.again, ctx.inputs = gradients, again, inputs
        return total.clone()

    @staticmethod
    def backward(ctx: _Saved, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled() or ctx.gradients is None:
            create = torch.is_grad_enabled()
            with torch.enable_grad():
                total = ctx.again()
                found = torch.autograd.grad(total, ctx.inputs, cotangent, create_graph=create, allow_unused=True)
            return None, None, None, *found
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, *(gradient.mul_(cotangent.to(gradient.dtype)) for gradient in gradients)


def _parameters(values: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Leaves of the graph of `values` besides these."""
    seen, nodes, parameters = set(map(id, leaves)), [values.grad_fn], []
    visited = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in seen:
            seen.add(id(leaf))
            parameters.append(leaf)
        nodes.extend(following for following, _ in node.next_functions)
    return parameters


def carried_over(rows: Tensor, ids: Tensor) -> Tensor:
    """Rows [n, V] of log-probabilities; a row with an id in `ids` [n] (-1: none) gets all its mass on that id."""
    certain = torch.full_like(rows, -torch.inf).scatter_(1, ids.clamp_min(0)[:, None], 0.0)
    return torch.where((ids < 0)[:, None], rows, certain)

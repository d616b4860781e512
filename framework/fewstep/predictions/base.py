"""Lazy predictions: categorical distributions over clean tokens, computed only at the rows that are read.

At 50 k symbols and 1,024 tokens one dense float32 prediction is 200 MB a sample, and distillation needs
three of them. A `Prediction` therefore holds the hidden states and the head, and offers row-wise operations.

Shapes: B batch, L tokens, V vocabulary, N selected rows, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.predictions.draws import pick
from fewstep.predictions.evaluation import Evaluation
from fewstep.predictions.lazy import LazyValues
from fewstep.predictions.positions import intersection, positions
from fewstep.predictions.row_losses import CrossEntropy, Mean
from fewstep.runtime.streams import Randomness, uniform

CHUNK_ELEMENTS = 1 << 24
"""Rows x V above which row operations run in chunks (64 MiB in float32)."""


RowMap = Callable[[Tensor], Tensor]
"""Normalised log-probabilities [N, V] -> normalised log-probabilities [N, V]."""

Clock = Callable[[Tensor], Tensor]
"""Times of the process [B] -> times of each position [B, L], rising from 0 to 1 with them."""


class Prediction(ABC):
    """p(x | z_t), one categorical distribution a token.

    A subclass defines four members: `vocab_size`, `source`, `to_log_probs` and `with_shaping`. It may also override
    `unnormalised`, where rows for a draw cost less than normalised ones, and `chunk_rows`, where a row takes more
    memory than V numbers. All other members are built on these. A prediction that wraps another one reads it through
    `source` and `rows`: `source` selects positions and costs nothing, `rows` computes.

    Args:
        known: ids [B, L] that carried-over positions take.
        where: BoolTensor [B, L], true at predicted positions; elsewhere the token is known.
        shaping: row maps, applied in order to every row.

    A prediction may bring a `clock`, which gives each position its own time and so an order of generation (arXiv
    2602.02112). Steps back follow the clock. None is the process's own time at every position.
    """

    def __init__(self, known: Tensor, where: Tensor, shaping: tuple[RowMap, ...] = ()) -> None:
        self.known = known
        self.where = where
        self.shaping = shaping
        self.clock: Clock | None = None

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V."""

    @property
    def output(self) -> Prediction:
        """The prediction by what the network's output means: leave-one-out rows, if it is that; else this one.

        All other members are about p(x | z_t), whatever the output means (`predictions.evidence`).
        """
        return self

    @abstractmethod
    def source(self, where: Tensor) -> Tensor:
        """Inputs [N, ...] of the rows at the N true positions of `where` (BoolTensor [B, L])."""

    @abstractmethod
    def to_log_probs(self, source: Tensor) -> Tensor:
        """Rows [N, ...] of the source -> normalised float log-probabilities [N, V], before any shaping."""

    @abstractmethod
    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        """The same prediction with `shaping` in the place of its row maps."""

    def shaped(self, row_map: RowMap) -> Prediction:
        """This prediction with `row_map` applied to its rows (temperature, top-p); nothing is computed yet."""
        shaped = self.with_shaping((*self.shaping, row_map))
        shaped.clock = self.clock
        return shaped

    def on_clock(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Times of the process [B] on the prediction's clock [B, L]; unchanged without a clock."""
        return (t, s) if self.clock is None else (self.clock(t), self.clock(s))

    def affine(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight [V, D] and bias [V], if `to_log_probs` is the log-softmax of their affine map of the source [N, D].

        Losses then form the gradients of both themselves, in float32 and without recomputation. None if it is not, or
        if the map is not known.
        """
        return None

    def rows(self, source: Tensor) -> Tensor:
        """Rows [N, ...] of the source -> normalised log-probabilities [N, V], shaped."""
        log_p = self.to_log_probs(source)
        for row_map in self.shaping:
            log_p = row_map(log_p)
        return log_p

    def unnormalised(self, source: Tensor) -> Tensor:
        """Rows [N, ...] of the source -> weights [N, V] in proportion to the shaped probabilities."""
        return self.rows(source).exp()

    def log_probs(self, where: Tensor | None = None) -> Tensor:
        """Log-probabilities [N, V] at the true positions of `where` (default: all predicted ones)."""
        return self.rows(self.source(self.where if where is None else where))

    def dense_probs(self) -> Tensor:
        """Probabilities [B, L, V], one-hot at known positions. For small vocabularies, tests and soft data."""
        known = self.known.clamp(max=self.vocab_size - 1)
        dense = torch.nn.functional.one_hot(known, self.vocab_size).to(torch.float32)
        rows = self.log_probs().exp()
        return positions(self.where).put(rows, dense.to(rows.dtype))

    def sample(self, *, generator: Randomness = None, where: Tensor | None = None) -> Tensor:
        """Hard draw x ~ Cat(p) (LongTensor [B, L]); tokens outside `where` keep their known ids.

        Draws are in float64: the coarser steps of float32 make rare tokens too rare.
        """
        return self.sample_at(uniform(self.where.shape, generator, device=self.where.device), where)

    def sample_at(self, levels: Tensor, where: Tensor | None = None) -> Tensor:
        """`sample` by given uniform numbers [B, L]; a token depends on its own alone, wherever else is drawn."""
        where = self.where if where is None else intersection(where, self.where)
        (ids,) = self._scan(self.unnormalised, lambda weights, u: (pick(weights, u),), where, levels)
        return self.known.masked_scatter(where, ids)

    def scan(self, fn: Callable[..., tuple[Tensor, ...]], where: Tensor, *extras: Tensor) -> tuple[Tensor, ...]:
        """Apply `fn` to rows, chunk by chunk and without gradients; each row is computed once.

        Args:
            fn: takes log-probabilities [n, V] and rows [n, ...] of each extra; returns tensors [n, ...].
            where: positions of the rows (BoolTensor [B, L], within `self.where`).
            extras: tensors [B, L, ...] read at the same positions.

        Returns:
            The results of `fn` for all N rows.
        """
        return self._scan(self.rows, fn, where, *extras)

    @torch.no_grad()
    def _scan(
        self, rows: RowMap, fn: Callable[..., tuple[Tensor, ...]], where: Tensor, *extras: Tensor
    ) -> tuple[Tensor, ...]:
        """`scan` with the output of `rows` in the place of log-probabilities."""
        inputs = [self.source(where), *map(positions(where).take, extras)]
        parts = zip(*(torch.split(x, self.chunk_rows()) for x in inputs), strict=True)
        results = [fn(rows(source), *extra) for source, *extra in parts]
        return results[0] if len(results) == 1 else tuple(torch.cat(pieces) for pieces in zip(*results, strict=True))

    def nll(self, ids: Tensor, where: Tensor | None = None) -> Tensor:
        """-log p(ids) [B, L] at the true positions of `where` (default: all predicted ones); zero elsewhere."""
        return rowwise(_NLL, [self], [ids], where=self.where if where is None else where)

    def cross_entropy(self, target: Prediction) -> Tensor:
        """-sum_c target_c log p_c [B, L] at this prediction's predicted positions; zero elsewhere."""
        return rowwise(_CROSS_ENTROPY, [self, target], where=self.where)

    def entropy(self) -> Tensor:
        """Shannon entropy in nats [B, L]; zero at known positions."""
        return rowwise(_ENTROPY, [self], where=self.where)

    def chunk_rows(self) -> int:
        """Number of rows that are computed at once: as many as fit into `CHUNK_ELEMENTS` numbers."""
        return max(1, CHUNK_ELEMENTS // self.vocab_size)


def rowwise(
    fn: Callable[..., Tensor],
    predictions: list[Prediction],
    extras: list[Tensor] | None = None,
    *,
    where: Tensor,
) -> Tensor:
    """Apply `fn` to rows of several predictions and put the results back in place.

    Every loss is built on it. It reads only the rows in `where`. The result is computed when it is read: a weighted sum
    or mean of it, such as `ctx.mean(weight * values)`, in chunks of `CHUNK_ELEMENTS` whose gradient is formed at once;
    anything else as the tensor that it is, in chunks that the backward pass recomputes (`predictions.lazy`).

    Args:
        fn: takes log-probabilities [n, V] of each prediction, then rows [n, ...] of each extra; returns [n]. The value
            of a row depends on that row alone. A `RowLoss` brings its gradient, which takes fewer passes over V.
        predictions: read at the positions in `where`; the row of a carried-over token is one-hot.
        extras: tensors [B, L, ...] without gradient, read at the same positions.
        where: BoolTensor [B, L].

    Returns:
        float [B, L], zero outside `where`.
    """
    evaluation = Evaluation(fn, predictions, extras or [], where)
    if not torch.is_grad_enabled():
        return evaluation.values()
    return evaluation.tensor() if torch.compiler.is_compiling() else LazyValues([(None, evaluation)])


_NLL = CrossEntropy(hard=1.0)
_CROSS_ENTROPY = CrossEntropy((1.0,), constants=False)
_ENTROPY = Mean(torch.neg)

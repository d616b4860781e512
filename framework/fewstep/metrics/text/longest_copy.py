"""Longest span of a sample that is copied from the training data.

Shapes: N samples, M training samples, L tokens, V symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.metrics.base import METRICS, Metric, MetricConfig
from fewstep.runtime.seeding import generator_for

_BASE = 0x9E3779B97F4A7C15
_REFERENCES = 500
_CHUNK = 1 << 21


@METRICS.register("longest_copy")
class LongestCopy(Metric):
    """Tokens in the longest span of a sample that stands, token for token, in one training sample, at any place.

    The values are mean and maximum over the samples. `longest_copy_data` is the mean for real samples: the held-out
    ones, or else the last tenth of the training samples (500 at most), searched in the other training samples. A
    generator far above it recites.
    """

    directions: ClassVar = {"longest_copy": "info", "longest_copy_max": "info", "longest_copy_data": "info"}

    class Config(MetricConfig):
        type: Literal["longest_copy"] = "longest_copy"

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.spans: list[Tensor] = []

    @cached_property
    def _train(self) -> Tensor:
        """All training samples as int64; cached, since they may have to be read and widened."""
        return self._without_padding(self.dataset.train[:].long(), 0)

    def _without_padding(self, rows: Tensor, number: int) -> Tensor:
        """Rows whose padding is a symbol of its own for each side, so that it is never a copy."""
        return rows.where(self.dataset.text_mask(rows), self.dataset.spec.vocab_size + number)

    def update(self, samples: Tensor) -> None:
        self.spans.append(longest_spans(self._without_padding(samples.cpu(), 1), self._train))

    def compute(self) -> dict[str, float]:
        spans = torch.cat(self.spans).double()
        return {
            "longest_copy": float(spans.mean()),
            "longest_copy_max": float(spans.max()),
            "longest_copy_data": float(longest_spans(*self._reference()).double().mean()),
        }

    def _reference(self) -> tuple[Tensor, Tensor]:
        """Real samples, and the training samples to search them in."""
        train, held_out = self._train, self.dataset.held_out
        if held_out is None:
            last = min(_REFERENCES, -(-len(train) // 10))
            rows = self.dataset.train[-last:].long()
            return self._without_padding(rows, 1), train[:-last]
        order = torch.randperm(len(held_out), generator=generator_for(0, "longest_copy"))
        return self._without_padding(held_out[order[:_REFERENCES]].long(), 1), train


def longest_spans(samples: Tensor, source: Tensor) -> Tensor:
    """Length of the longest span of each sample that occurs within a row of `source`.

    Spans are compared by 64-bit polynomial hashes, so that one length takes one pass over the source. If a span of some
    length occurs, so do shorter ones; bisection therefore finds the longest. All samples that try the same length share
    a pass, so there are at most L passes and mostly few.

    Args:
        samples: LongTensor [N, L].
        source: LongTensor [M, L].

    Returns:
        LongTensor [N], from 0 to L.
    """
    if not len(source):
        return torch.zeros(len(samples), dtype=torch.long)
    values = _random_values(int(max(samples.max(), source.max())) + 1)
    prefixes, source_prefixes = _prefix_hashes(values[samples]), _prefix_hashes(values[source])

    def occurs(rows: Tensor, length: int) -> Tensor:
        return _any_span_occurs(prefixes[rows], source_prefixes, length)

    return _bisect(len(samples), samples.shape[1], occurs)


def _bisect(count: int, longest: int, occurs: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Largest length from 0 to `longest` for which `occurs(rows, length)` is true, LongTensor [count]."""
    low, high = torch.zeros(count, dtype=torch.long), torch.full((count,), longest)
    while bool((low < high).any()):
        middle = (low + high + 1) // 2
        for length in torch.unique(middle[low < high]).tolist():
            rows = ((low < high) & (middle == length)).nonzero()[:, 0]
            hits = occurs(rows, length)
            low[rows[hits]] = length
            high[rows[~hits]] = length - 1
    return low


def _random_values(count: int) -> Tensor:
    """A random 64-bit number for each symbol, so that the hashes of short spans also differ."""
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator_for(0, "longest_copy/hash"))


def _prefix_hashes(values: Tensor) -> Tensor:
    """h_0 = 0, h_{i+1} = h_i b + v_i modulo 2^64: [N, L] -> [N, L + 1]."""
    hashes = torch.zeros(values.shape[0], values.shape[1] + 1, dtype=torch.long)
    for i in range(values.shape[1]):
        hashes[:, i + 1] = hashes[:, i] * _signed(_BASE) + values[:, i]
    return hashes


def _span_hashes(prefixes: Tensor, length: int) -> Tensor:
    """Hash of every span of that length, [N, L + 1 - length]: h_{i+length} - h_i b^length."""
    return prefixes[:, length:] - prefixes[:, :-length] * _signed(pow(_BASE, length, 2**64))


def _any_span_occurs(prefixes: Tensor, source_prefixes: Tensor, length: int) -> Tensor:
    """Whether any span of that length occurs in the source, for each sample (BoolTensor [N])."""
    spans, place = torch.unique(_span_hashes(prefixes, length), return_inverse=True)
    occurs = torch.zeros(len(spans), dtype=torch.bool)
    for part in source_prefixes.split(max(1, _CHUNK // source_prefixes.shape[1])):
        hashes = _span_hashes(part, length)
        nearest = torch.searchsorted(spans, hashes).clamp_max(len(spans) - 1)
        occurs[nearest[spans[nearest] == hashes]] = True
    return occurs[place].any(1)


def _signed(number: int) -> int:
    """An unsigned 64-bit number as the signed one with the same bits, since torch has no uint64 arithmetic."""
    return number - 2**64 if number >= 2**63 else number

"""Sources: datasets with a known distribution, for metrics and exact denoisers.

Shapes: N samples, L tokens, V vocabulary, C = V ** order contexts, numbered with the latest token as the last digit.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Generator, Tensor

from fewstep.data.base import Dataset


@dataclass(frozen=True)
class Chain:
    """Stationary Markov chain: `initial` (float64 [C]) is the distribution of contexts, `transition` (float64 [C, V])
    that of the token after each."""

    initial: Tensor
    transition: Tensor
    order: int


class Source(Dataset):
    """A dataset that is drawn from a known distribution q: a Markov chain."""

    @property
    @abstractmethod
    def chain(self) -> Chain:
        """The chain; `denoisers.exact` builds the exact denoiser from it."""

    @abstractmethod
    def draw(self, count: int, generator: Generator) -> Tensor:
        """Exact samples (LongTensor [count, L])."""

    @abstractmethod
    def log_likelihood(self, samples: Tensor) -> Tensor:
        """log q(x) in nats (float64 [N]) of samples [N, L]."""

    @abstractmethod
    def ngram_probs(self, n: int) -> Tensor:
        """Probability of every n-gram (float64 [V] * n); the same at every place."""


def normalised(rows: Tensor) -> Tensor:
    """Rows [..., K] divided by their sums."""
    return rows / rows.sum(-1, keepdim=True)

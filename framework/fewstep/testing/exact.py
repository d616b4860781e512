"""Exact sources and oracles: distributions small enough to enumerate, and denoisers whose predictions are known.

What a component computes can be compared with the truth on them. Everything is float64.

Shapes: B batch, L tokens, V vocabulary, S states, N = V ** L sequences.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot

from fewstep.data.base import Dataset
from fewstep.data.synthetic.source import Source
from fewstep.denoisers.base import Denoiser
from fewstep.objectives.base import Batch, LossOutput, Objective, Phase, StepContext
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import Process, discrete
from fewstep.runtime.streams import Randomness

MAX_SEQUENCES = 1 << 20
"""Limit on V ** L, before anything is enumerated."""


def all_sequences(vocab_size: int, length: int) -> Tensor:
    """Every sequence, LongTensor [N, L], the last token counting fastest.

    Raises:
        ValueError: there are more than `MAX_SEQUENCES`.
    """
    if vocab_size**length > MAX_SEQUENCES:
        raise ValueError(
            f"{vocab_size} ** {length} sequences are too many to enumerate; the limit is {MAX_SEQUENCES:,}"
        )
    return torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))


def exact_distribution(dataset: Dataset) -> Tensor:
    """Probability of every sequence of a dataset, float64 [V] * L.

    A source with a known distribution (`markov`) gives its own. Any other dataset is its own distribution: the shares
    of its training samples, which for `coins` are the odds.

    Raises:
        ValueError: there are more sequences than can be enumerated.
    """
    size, length = dataset.spec.vocab_size, dataset.spec.length
    every = all_sequences(size, length)
    if isinstance(dataset, Source):
        return dataset.log_likelihood(every).exp().view([size] * length)
    return sequence_shares(dataset.train[:].long(), size)


def sequence_shares(samples: Tensor, vocab_size: int) -> Tensor:
    """Share of each sequence among samples [B, L], float64 [V] * L."""
    length = samples.shape[1]
    places = vocab_size ** torch.arange(length - 1, -1, -1)
    counts = torch.bincount((samples * places).sum(1), minlength=vocab_size**length)
    return (counts.double() / len(samples)).view([vocab_size] * length)


def total_variation(samples: Tensor, distribution: Tensor) -> float:
    """Total variation between samples [B, L] and a distribution (float64 [V] * L), from 0 to 1."""
    return float((sequence_shares(samples, distribution.shape[0]) - distribution).abs().sum() / 2)


class RowsDenoiser(Denoiser):
    """A denoiser whose predictions are given by `rows`, with exact times for each token.

    Args:
        process: of any space.
        length: L.
    """

    def __init__(self, process: Process, length: int) -> None:
        super().__init__(process, length)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def takes_token_times(self) -> bool:
        return True

    @abstractmethod
    def rows(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of the clean tokens, [B, L, V], of states at times t ([B] or [B, L])."""

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        return TablePrediction(self.rows(x_t, t), self.process.to_ids(x_t), self.process.to_predict(x_t))


class EnumeratedOracle(RowsDenoiser):
    """Exact E[x | z_t] of any distribution over sequences, by summing over all of them.

    It works for every process, discrete or continuous, since it asks for `Process.evidence` only. A state that no
    sequence explains is predicted by the distribution itself.

    Args:
        process: of any space.
        distribution: probabilities, float64 [V] * L.
    """

    def __init__(self, process: Process, distribution: Tensor) -> None:
        super().__init__(process, distribution.ndim)
        self.every = all_sequences(process.vocab_size, distribution.ndim)
        self.log_prior = distribution.double().flatten().log()

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(x | z_t) of every sequence, float64 [B, N]."""
        evidence = self.process.evidence(x_t, t).log()
        terms = torch.stack([evidence[:, i, self.every[:, i]] for i in range(self.length)])  # [L, B, N]
        weights = self.log_prior + terms.sum(0)
        possible = (weights > -torch.inf).any(1, keepdim=True)
        return torch.where(possible, weights, self.log_prior).softmax(1)

    def rows(self, x_t: Tensor, t: Tensor) -> Tensor:
        clean = one_hot(self.every, self.process.vocab_size).double()
        return torch.einsum("bn,nlv->blv", self.posterior(x_t, t), clean).log()


class FreeDenoiser(RowsDenoiser):
    """A row of logits for every state and position, drawn at random: the freest denoiser of ids that there is.

    Its parameter `logits`, float64 [S ** L, L, V], has a gradient for each number of each row, to be compared with one
    computed by hand. It does not know the time.

    Args:
        process: of ids.
        length: L.
        seed: of the logits.

    Raises:
        ValueError: the process is continuous.
    """

    def __init__(self, process: Process, length: int, seed: int = 0) -> None:
        super().__init__(discrete(process), length)
        shape = (process.num_states**length, length, process.vocab_size)
        rng = Generator().manual_seed(seed)
        self.logits = nn.Parameter(torch.randn(*shape, generator=rng, dtype=torch.float64))

    def index(self, x_t: Tensor) -> Tensor:
        """Row of `logits` of each state, LongTensor [B]: the first token counts fastest."""
        return (x_t * self.process.num_states ** torch.arange(self.length)).sum(1)

    def rows(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.logits[self.index(x_t)].log_softmax(-1)


def step_context(process: Process, roles: Mapping[str, Denoiser], *, seed: int = 0) -> StepContext:
    """What an objective's `loss` is called with, outside of a training: streams from a seed, on the CPU."""
    names = ("time", "noise", "sample")
    streams: dict[str, Randomness] = {
        name: Generator().manual_seed(seed * len(names) + place) for place, name in enumerate(names)
    }
    return StepContext(dict(roles), process, streams, torch.device("cpu"))


def loss_of(
    objective: Objective, process: Process, roles: Mapping[str, Denoiser], data: Tensor, *, seed: int = 0
) -> LossOutput:
    """Loss of an objective's first phase on clean tokens.

    Args:
        roles: networks by role.
        data: clean tokens, LongTensor [B, L].
        seed: of times, noise and draws; the same seed gives the same ones.
    """
    phase: Phase = objective.phases()[0]
    return objective.loss(phase, Batch(data), step_context(process, roles, seed=seed))

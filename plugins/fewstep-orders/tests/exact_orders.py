"""Denoisers with known clocks, and the bound of small sources by enumeration.

Shapes: X sequences, M subsets of masked positions, L tokens, V symbols, N nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from fewstep_orders.exponents import ExponentClock
from fewstep_orders.keys_and_checks import KeysAndChecks
from torch import Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess, Process
from fewstep.runtime.streams import Randomness

Exponents = Callable[[Tensor], Tensor]
"""States or clean tokens [B, L] -> exponents [B, L]."""


def masked(vocab_size: int, eps: float = 0.0) -> DiscreteProcess:
    process = PROCESSES.build({"type": "masked", "schedule": {"type": "linear", "eps": eps}}, vocab_size=vocab_size)
    assert isinstance(process, DiscreteProcess)
    return process


def constant(*exponents: float) -> Exponents:
    return lambda x: torch.tensor(exponents, dtype=torch.float64).expand(x.shape)


class Ordered(DenoiserAround):
    """A denoiser with given exponents, of clean tokens for the noising and of states for the predictions."""

    def __init__(self, denoiser: Denoiser, forward: Exponents, reverse: Exponents | None = None) -> None:
        super().__init__(denoiser)
        self.has_clock = True
        self.forward_of, self.reverse_of = forward, reverse or forward

    def forward_exponents(self, x0: Tensor, cond: Condition) -> Tensor:
        return self.forward_of(x0)

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        prediction = self.denoiser.predict(x_t, t, s, cond, generator)
        prediction.clock = ExponentClock(self.reverse_of(x_t))
        return prediction


class OnlyChecks(Denoiser):
    """Knows a check if both of its keys are visible, and nothing else."""

    def __init__(self, source: KeysAndChecks, process: Process) -> None:
        super().__init__(process, source.spec.length)
        self.source = source

    @property
    def device(self) -> torch.device:
        return self.source.table.device

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        vocab = self.process.vocab_size
        keys, _ = self.source.split(x_t)
        visible = (keys < vocab) & (keys.roll(-1, 1) < vocab)
        certain = torch.nn.functional.one_hot(self.source.checks_of(keys.clamp(max=vocab - 1)), vocab).double()
        checks = torch.where(visible[..., None], certain, 1 / vocab)
        rows = torch.cat((torch.full_like(checks, 1 / vocab), checks), 1)[:, self.source.places.argsort()]
        return TablePrediction(rows.log(), x_t, self.process.to_predict(x_t))


def pair_source(length: int = 2) -> Markov:
    return Markov(Markov.Config(vocab_size=2, length=length, successors=1, smoothing=0.4, size=8))


def all_states(source: Markov) -> tuple[Tensor, Tensor, Tensor]:
    """Every sequence with every subset masked: x, z (LongTensor [X M, L]), and log q(x) [X M]."""
    vocab, length = source.spec.vocab_size, source.spec.length
    sequences = torch.tensor(list(product(range(vocab), repeat=length)))
    subsets = torch.tensor(list(product((False, True), repeat=length)))
    x = sequences.repeat_interleave(len(subsets), 0)
    z = torch.where(subsets.repeat(len(sequences), 1), vocab, x)
    return x, z, source.log_likelihood(x)


def nodes(low: float = 0.0, step: float = 0.02, reach: float = 5.38) -> tuple[Tensor, Tensor]:
    """Nodes and weights (float64 [N]) of tanh-sinh quadrature over [low, 1], for any power at the lower end.

    They end at 1e-150, since squares of smaller times are 0.
    """
    v = torch.arange(-reach, 3.2, step, dtype=torch.float64)
    u = torch.sigmoid(math.pi * v.sinh())
    weights = step * math.pi * v.cosh() * u * torch.sigmoid(-math.pi * v.sinh())
    return low + (1 - low) * u, (1 - low) * weights


def state_probs(masks: Tensor, exponents: Tensor, t: Tensor) -> Tensor:
    """q(masks | x) of states [S, L] with exponents [S, L] at times [N]: float64 [N, S]."""
    noise = t[:, None, None] ** exponents
    return torch.where(masks, noise, -torch.expm1(exponents * t.log()[:, None, None])).prod(-1)

"""Markov source with a known law, and the oracle denoiser that knows it.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from fewstep.component import ComponentConfig
from fewstep.condition import Condition
from fewstep.data.base import DATASETS, Dataset, DataSpec
from fewstep.denoiser import Denoiser
from fewstep.prediction import Prediction, TablePrediction
from fewstep.processes.base import ForwardProcess


@DATASETS.register("markov")
class Markov(Dataset):
    """Stationary first-order Markov chain with a few likely successors a state: its law is known exactly."""

    class Config(ComponentConfig):
        type: Literal["markov"] = "markov"
        vocab_size: int = Field(16, ge=2, description="states of the chain")
        length: int = Field(32, ge=2, description="tokens a sample")
        successors: int = Field(4, ge=1, description="likely successors of each state")
        smoothing: float = Field(
            1e-3, gt=0, lt=1, description="mass spread over all successors, so that none is impossible"
        )
        source_seed: int = Field(0, ge=0, description="seed of the transition matrix and of the training samples")
        size: int = Field(65536, gt=0, description="training samples drawn from the chain")

    @classmethod
    def check_recipe(cls, config: Any, recipe: Any) -> Iterator[tuple[str, str]]:
        if config.successors > config.vocab_size:
            yield (
                "successors",
                f"{config.successors} successors, but there are only {config.vocab_size} states (vocab_size)",
            )

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        c = self.config
        generator = torch.Generator().manual_seed(c.source_seed)
        self.transition = _transition(c, generator)
        self.initial = _stationary(self.transition)
        self.spec = DataSpec(vocab_size=c.vocab_size, length=c.length)
        self.train = self.draw(c.size, generator)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Exact samples (LongTensor [count, L])."""
        x = torch.empty(count, self.config.length, dtype=torch.long)
        x[:, 0] = torch.multinomial(self.initial, count, replacement=True, generator=generator)
        for i in range(1, self.config.length):
            x[:, i] = torch.multinomial(self.transition[x[:, i - 1]], 1, generator=generator)[:, 0]
        return x

    def log_likelihood(self, samples: Tensor) -> Tensor:
        """log q(x) in nats (float64 [B])."""
        steps = self.transition.log()[samples[:, :-1], samples[:, 1:]]
        return self.initial.log()[samples[:, 0]] + steps.sum(1)

    def ngram_law(self, order: int) -> Tensor:
        """Exact probability of every n-gram (float64 [V] * order); the same at every place."""
        law = self.initial
        for _ in range(order - 1):
            law = law[..., None] * self.transition
        return law

    def oracle(self, process: ForwardProcess, block_size: int | None = None) -> MarkovOracle:
        """The denoiser that returns E_q[x | z_t] without having learned anything; block by block if asked to."""
        return MarkovOracle(self, process, block_size)

    def to_text(self, samples: Tensor) -> list[str]:
        return [" ".join(f"{token:2d}" for token in row) for row in samples.tolist()]


class MarkovOracle(Denoiser):
    """Exact posterior marginals p(x_i | z_t) of a Markov source, by forward-backward.

    With a block size they are those of one block given the clean tokens before it and nothing of what comes after.
    """

    def __init__(self, source: Markov, process: ForwardProcess, block_size: int | None = None) -> None:
        super().__init__(process, source.spec.length, block_size)
        self.transition, self.initial = source.transition, source.initial

    @property
    def device(self) -> torch.device:
        return self.transition.device

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        evidence = self._evidence(x_t, t)
        length = x_t.shape[1]
        left, right = [self._before(cond).expand_as(evidence[:, 0])], [torch.ones_like(evidence[:, 0])]
        for i in range(1, length):
            left.append(_normalised((left[-1] * evidence[:, i - 1]) @ self.transition))
            right.append(_normalised((right[-1] * evidence[:, length - i]) @ self.transition.T))
        marginals = torch.stack(left, 1) * evidence * torch.stack(right[::-1], 1)
        return TablePrediction(_normalised(marginals).log(), x_t, self.process.to_predict(x_t))

    def _before(self, cond: Condition) -> Tensor:
        """Law of the first token, [V] or [B, V].

        Raises:
            ValueError: there are blocks, and no prefix.
        """
        if self.block_size is None:
            return self.initial
        if cond.prefix is None:
            raise ValueError("this oracle goes block by block; call it with a prefix")
        return self.transition[cond.prefix.ids[:, -1]] if cond.prefix.length else self.initial

    def _evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        """q(z_i | x_i = c) for every c, up to a factor (float64 [B, L, V])."""
        vocab = self.process.vocab_size
        alpha = self.process.schedule.alpha(t.double())[:, None, None]
        same = x_t[..., None] == torch.arange(vocab, device=x_t.device)
        if not self.process.carry_over:
            return alpha * same + (1 - alpha) / vocab
        return torch.where(self.process.to_predict(x_t)[..., None], 1.0, same.double())


def _normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True)


def _transition(config: Any, generator: Generator) -> Tensor:
    """Row-stochastic float64 [V, V]: `successors` random entries a row hold all but the smoothing mass."""
    v, k = config.vocab_size, config.successors
    likely = torch.rand(v, v, generator=generator, dtype=torch.float64).argsort(1)[:, :k]
    weights = 0.25 + torch.rand(v, k, generator=generator, dtype=torch.float64)
    sparse = torch.zeros(v, v, dtype=torch.float64).scatter(1, likely, _normalised(weights))
    return (1 - config.smoothing) * sparse + config.smoothing / v


def _stationary(transition: Tensor) -> Tensor:
    """Left fixed point pi = pi P, by repeated squaring of P."""
    power = transition
    for _ in range(30):
        power = _normalised(power @ power)
    return power.mean(0)

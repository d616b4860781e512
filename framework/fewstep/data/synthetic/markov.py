"""Markov source with a known distribution.

Shapes: B batch, L tokens, V vocabulary, C = V ** order contexts, numbered with the latest token as the last digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, MAX_MADE, DataSpec
from fewstep.data.synthetic.source import Chain, Source, normalised

MAX_CONTEXTS = 1024
"""Limit on C: the stationary distribution comes from powers of a dense [C, C] matrix."""


@DATASETS.register("markov")
class Markov(Source):
    """Stationary Markov chain of any order with a few likely successors per context; its distribution is known."""

    class Config(ComponentConfig):
        type: Literal["markov"] = "markov"
        vocab_size: int = Field(16, ge=2, description="symbols of the chain")
        order: int = Field(1, ge=1, le=64, description="tokens that the next one depends on")
        length: int = Field(32, ge=2, description="tokens per sample")
        successors: int = Field(4, ge=1, description="likely successors of each context")
        smoothing: float = Field(
            1e-3, gt=0, lt=1, description="mass spread over all successors, so that none is impossible"
        )
        source_seed: int = Field(0, ge=0, description="seed of the transition matrix and of the training samples")
        size: int = Field(65536, gt=0, description="training samples drawn from the chain")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.successors > self.vocab_size:
                yield (
                    "successors",
                    f"{self.successors} successors, but there are only {self.vocab_size} symbols (vocab_size)",
                )
            if self.size * max(self.length, self.vocab_size) > MAX_MADE:
                yield "size", f"{self.size:,} samples of these tokens and symbols are too much to make; take fewer"
            if self.order >= self.length:
                yield "order", f"a chain of order {self.order} needs samples longer than its {self.length} tokens"
            elif self.vocab_size**self.order > MAX_CONTEXTS:
                yield (
                    "order",
                    f"vocab_size ** order is {self.vocab_size**self.order:,} contexts, and {MAX_CONTEXTS:,} is the "
                    "most whose distribution is computed exactly; take fewer symbols or a lower order",
                )

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        generator = torch.Generator().manual_seed(c.source_seed)
        self.transition = _transition(c, generator)
        self.initial = _stationary(self.transition)
        self.spec = DataSpec(vocab_size=c.vocab_size, length=c.length)
        self.train = self.draw(c.size, generator)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Exact samples (LongTensor [count, L])."""
        c = self.config
        x = torch.empty(count, c.length, dtype=torch.long)
        context = torch.multinomial(self.initial, count, replacement=True, generator=generator)
        x[:, : c.order] = self._digits(context)
        for i in range(c.order, c.length):
            x[:, i] = torch.multinomial(self.transition[context], 1, generator=generator)[:, 0]
            context = (context * c.vocab_size + x[:, i]) % len(self.initial)
        return x

    def log_likelihood(self, samples: Tensor) -> Tensor:
        """log q(x) in nats (float64 [B])."""
        contexts = self.contexts(samples)
        steps = self.transition.log()[contexts[:, :-1], samples[:, self.config.order :]]
        return self.initial.log()[contexts[:, 0]] + steps.sum(1)

    def contexts(self, samples: Tensor) -> Tensor:
        """Number of the context that ends at each place, from place `order` on (LongTensor [B, L - order + 1])."""
        windows = samples.unfold(1, self.config.order, 1)
        places = self.config.vocab_size ** torch.arange(self.config.order - 1, -1, -1, device=samples.device)
        return (windows * places).sum(-1)

    def ngram_probs(self, n: int) -> Tensor:
        """Exact probability of every n-gram (float64 [V] * n); the same at every place."""
        vocab, order = self.config.vocab_size, self.config.order
        probs = self.initial.view([vocab] * order)
        if n < order:
            return probs.sum(tuple(range(order - n)))
        for _ in range(n - order):
            probs = probs[..., None] * self.transition.view([vocab] * (order + 1))
        return probs

    def _digits(self, contexts: Tensor) -> Tensor:
        """Tokens of contexts (LongTensor [B, order])."""
        vocab, order = self.config.vocab_size, self.config.order
        return contexts[:, None] // vocab ** torch.arange(order - 1, -1, -1) % vocab

    @property
    def chain(self) -> Chain:
        return Chain(self.initial, self.transition, self.config.order)

    def to_text(self, samples: Tensor) -> list[str]:
        return [" ".join(f"{token:2d}" for token in row) for row in samples.tolist()]


def _transition(config: Markov.Config, generator: Generator) -> Tensor:
    """Row-stochastic float64 [C, V]: `successors` random entries per row hold all but the smoothing mass."""
    v, k, contexts = config.vocab_size, config.successors, config.vocab_size**config.order
    likely = torch.rand(contexts, v, generator=generator, dtype=torch.float64).argsort(1)[:, :k]
    weights = 0.25 + torch.rand(contexts, k, generator=generator, dtype=torch.float64)
    sparse = torch.zeros(contexts, v, dtype=torch.float64).scatter(1, likely, normalised(weights))
    return (1 - config.smoothing) * sparse + config.smoothing / v


def _stationary(transition: Tensor) -> Tensor:
    """Left fixed point pi = pi P of the chain of contexts (float64 [C]), by repeated squaring of P."""
    contexts, vocab = transition.shape
    following = (torch.arange(contexts)[:, None] * vocab + torch.arange(vocab)) % contexts
    power = torch.zeros(contexts, contexts, dtype=torch.float64).scatter(1, following, transition)
    for _ in range(30):
        power = normalised(power @ power)
    return power.mean(0)

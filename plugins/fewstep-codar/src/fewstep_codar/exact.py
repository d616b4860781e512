"""The exact decoder of a Markov source: what a trained one should learn.

Shapes: B batch, L tokens, V vocabulary, C = V ** order contexts, D numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.data.synthetic.source import Source, normalised
from fewstep.denoisers.base import DenoiserAround
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.processes.base import Process
from fewstep.runtime.streams import Randomness
from fewstep_codar.embedding_gaussian import embedding_process


@dataclass
class ExactProgress:
    """A decoding on its way.

    `evidence` (float64 [B, L, V]) is p(vector | token). `after` [L][B, C] is the probability of the vectors that follow
    a place, by the context that ends there. `before` [B, C] is the distribution of the context before the next token,
    given the tokens so far.
    """

    evidence: Tensor
    after: list[Tensor]
    before: Tensor
    place: int = 0


class ExactRounding(DenoiserAround):
    """E[x | z_t] of a source, and p(x_i | tokens before i, all vectors) for vectors e + N(0, sigma^2).

    Args:
        sigma: standard deviation of the noise in each number of the vectors.
    """

    def __init__(self, source: Source, process: Process, sigma: float) -> None:
        super().__init__(exact_denoiser(source, process))
        self.chain, self.sigma = source.chain, sigma

    @property
    def takes_token_times(self) -> bool:
        return True

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        return self.denoiser(x_t, t, s, cond=cond, generator=generator)

    def open_rounding(self, vectors: Tensor) -> ExactProgress:
        table = embedding_process(self.process).rows(vectors.device).double()
        evidence = (vectors.double() @ table.T / self.sigma**2).softmax(-1)
        batch, length, vocab = evidence.shape
        after = [torch.ones(batch, len(self.chain.initial), dtype=torch.float64)]
        old = self.chain.transition.view(vocab, -1, vocab)
        for place in reversed(range(1, length)):
            weights = after[-1].view(batch, -1, vocab) * evidence[:, place, None]
            after.append(normalised(torch.einsum("brv,arv->bar", weights, old).flatten(1)))
        return ExactProgress(evidence, after[::-1], self.chain.initial.expand(batch, -1))

    def next_rows(self, progress: ExactProgress, last: Tensor | None) -> Tensor:
        batch, vocab, place = len(progress.evidence), progress.evidence.shape[-1], progress.place
        self._count(progress.evidence[:, :1], computed=0.0)
        if last is not None:
            digit = torch.arange(len(self.chain.initial)) % vocab
            progress.before = normalised(progress.before * (digit == last[:, None]))
        old, transition = progress.before.view(batch, vocab, -1), self.chain.transition.view(vocab, -1, vocab)
        context = torch.einsum("bar,arv->brv", old, transition)
        progress.before, progress.place = context.flatten(1), place + 1
        weights = context * progress.after[place].view(batch, -1, vocab) * progress.evidence[:, place, None]
        return normalised(weights.sum(1)).log()

"""Exact denoisers of sources with a known distribution.

Shapes: B batch, L tokens, V vocabulary, C = V ** order contexts, numbered with the latest token as the last digit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.data.synthetic.source import Chain, Source, normalised
from fewstep.denoisers.base import Denoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import Process
from fewstep.runtime.streams import Randomness


def exact_denoiser(source: Source, process: Process, block_size: int | None = None) -> MarkovOracle:
    """Denoiser that computes E_q[x | z_t] of a source exactly, without training.

    Args:
        block_size: number of tokens in a block, for a denoiser that goes block by block.
    """
    return MarkovOracle(source.chain, source.spec.length, process, block_size)


class MarkovOracle(Denoiser):
    """Exact posterior marginals p(x_i | z_t) of a Markov source, by forward-backward over its contexts.

    With a block size they are those of one block, given the clean tokens before it and none of those after it.
    """

    def __init__(self, chain: Chain, length: int, process: Process, block_size: int | None = None) -> None:
        super().__init__(process, length, block_size)
        vocab, self.order = process.vocab_size, chain.order
        # [oldest token, the other tokens of a context, next token]: a step drops the first and appends the last.
        self.transition = chain.transition.view(vocab, -1, vocab)
        self.initial = chain.initial

    @property
    def takes_token_times(self) -> bool:
        return True

    @property
    def device(self) -> torch.device:
        return self.transition.device

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        evidence = self.process.evidence(x_t, t)
        batch, length, vocab = evidence.shape
        # The sequence is a window into a stationary chain: the recursion starts with the context before token 0.
        context, left = self._before(cond, batch), []
        for i in range(length):
            left.append(self._step(context))
            context = normalised((left[-1] * evidence[:, i, None]).flatten(1))
        after, marginals = torch.ones_like(context), []
        for i in reversed(range(length)):
            weights = after.view(batch, -1, vocab) * evidence[:, i, None]
            marginals.append((left[i] * weights).sum(1))
            after = normalised(torch.einsum("brv,arv->bar", weights, self.transition).flatten(1))
        log_p, process = normalised(torch.stack(marginals[::-1], 1)).log(), self.process
        return TablePrediction(log_p, process.to_ids(x_t), process.to_predict(x_t))

    def _step(self, context: Tensor) -> Tensor:
        """Distribution of the context after one more token, from that before it: [B, C] to [B, C / V, V]."""
        old = context.view(len(context), *self.transition.shape[:2])
        return torch.einsum("bar,arv->brv", old, self.transition)

    def _before(self, cond: Condition, batch: int) -> Tensor:
        """Distribution [B, C] of the context before the first token: stationary, given the known tokens of the prefix.

        Raises:
            ValueError: the oracle goes block by block and `cond` has no prefix.
        """
        probs = self.initial.expand(batch, -1)
        if self.block_size is None:
            return probs
        if cond.prefix is None:
            raise ValueError("this oracle goes block by block; call it with a prefix")
        known = cond.prefix.ids[:, max(0, cond.prefix.length - self.order) :]
        for place, token in enumerate(reversed(known.unbind(1))):
            digit = torch.arange(len(self.initial)) // self.process.vocab_size**place % self.process.vocab_size
            probs = probs * (digit == token[:, None])
        return normalised(probs)

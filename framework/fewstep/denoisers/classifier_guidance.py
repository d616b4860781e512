"""Classifier-based guidance: predictions reweighted by a classifier (arXiv 2412.10193, D-CBG).

Shapes: B batch, L tokens, V vocabulary, S states, C classes, N selected rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.denoisers.classifier import NoisedClassifier
from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness

CANDIDATES = 4096
"""Number of sequences in one call of the classifier for exact ratios."""

_LOWEST = -1e4
"""Log-probability that stands for probability 0, so that the ratio of two zeros is 1."""

Ratios = Callable[[Tensor], Tensor]
"""Indices of tokens in the flattened batch [N] -> log-ratios of their candidates [N, V]."""


class ClassifierGuidedPrediction(Prediction):
    """log p(x_i = v | z_t) + w log (p(y | z_t with token i set to v) / p(y | z_t)), renormalised; row by row.

    With masks, the true classifier and w = 1 this is Bayes' rule: a mask set to v tells only that x_i = v.

    Args:
        base: prediction of the same tokens without a class.
        ratios: computes log-ratios, only for the rows that are read.
        weights: w of each sample [B], 0 for samples without a class.
    """

    def __init__(self, base: Prediction, ratios: Ratios, weights: Tensor, shaping: tuple[RowMap, ...] = ()) -> None:
        super().__init__(base.known, base.where, shaping)
        self._base, self._ratios, self._weights = base, ratios, weights
        self.clock = base.clock

    @property
    def vocab_size(self) -> int:
        return self._base.vocab_size

    def source(self, where: Tensor) -> Tensor:
        return where.flatten().nonzero()[:, 0]

    def to_log_probs(self, source: Tensor) -> Tensor:
        where = torch.zeros(self.where.numel(), dtype=torch.bool, device=source.device)
        where[source] = True
        base = self._base.rows(self._base.source(where.view(self.where.shape)))
        weights = self._weights[source // self.where.shape[1], None].to(base.dtype)
        guided = base + weights * self._ratios(source).to(base.dtype)
        return guided.masked_fill(base.isneginf(), -float("inf")).log_softmax(-1)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return ClassifierGuidedPrediction(self._base, self._ratios, self._weights, shaping)


@torch.no_grad()
def exact_ratios(
    classifier: NoisedClassifier, x_t: Tensor, t: Tensor, labels: Tensor, tokens: Tensor, vocab_size: int
) -> Tensor:
    """log p(y | z_t with token i set to v) - log p(y | z_t), by an evaluation for every v (float [N, V]).

    Args:
        x_t: noised ids [B, L].
        t: times [B].
        labels: y of each sample [B].
        tokens: indices of the tokens i in the flattened batch [N].
    """
    length, symbols = x_t.shape[1], torch.arange(vocab_size, device=x_t.device)
    now = classifier.log_probs(x_t, t).gather(1, labels[:, None])[:, 0].clamp_min(_LOWEST)
    parts = []
    for part in tokens.split(max(1, CANDIDATES // vocab_size)):
        rows = (part // length).repeat_interleave(vocab_size)
        candidates = x_t[rows]
        places = (part % length).repeat_interleave(vocab_size)
        candidates[torch.arange(len(rows), device=x_t.device), places] = symbols.repeat(len(part))
        then = classifier.log_probs(candidates, t[rows]).gather(1, labels[rows, None])[:, 0].clamp_min(_LOWEST)
        parts.append((then - now[rows]).view(-1, vocab_size))
    return torch.cat(parts) if parts else now.new_empty(0, vocab_size)


def first_order_ratios(classifier: NoisedClassifier, x_t: Tensor, t: Tensor, labels: Tensor, num_states: int) -> Tensor:
    """The same for all tokens to first order, (e_v - e_z) . grad log p(y | z_t) ([B, L, S])."""
    return first_order_changes(lambda rows: classifier.log_probs(rows, t).gather(1, labels[:, None]), x_t, num_states)


@torch.enable_grad()
def first_order_changes(score: Callable[[Tensor], Tensor], x_t: Tensor, num_states: int) -> Tensor:
    """First-order change of a score of one-hot rows [B, L, S] when a token is set to a state ([B, L, S]).

    Takes one forward and one backward pass. The scores of two samples must not depend on each other.
    """
    rows = one_hot(x_t, num_states).to(torch.get_default_dtype()).requires_grad_(True)
    (slope,) = torch.autograd.grad(score(rows).sum(), rows)
    return (slope - slope.gather(2, x_t[..., None])).detach()


class ClassifierGuidedDenoiser(DenoiserAround):
    """A denoiser without label input that a classifier guides to a class; any sampler can use it.

    Evaluations of the classifier are not counted: one forward and one backward pass for first-order ratios, V forward
    passes a token for exact ones.

    Args:
        denoiser: predicts whole samples of a process with masks.
        classifier: a classifier of tokens noised by the same process.
        weight: w; 0 leaves predictions unchanged.
        approximate: use first-order ratios.

    Raises:
        ValueError: the denoiser goes block by block, or its process has no masks.
    """

    def __init__(
        self, denoiser: Denoiser, classifier: NoisedClassifier, *, weight: float, approximate: bool = True
    ) -> None:
        super().__init__(denoiser)
        if denoiser.block_size is not None or not denoiser.process.carry_over:
            raise ValueError("classifiers guide denoisers of whole samples and of a process with masks")
        self.classifier = classifier
        self.weight, self.approximate = weight, approximate

    @property
    def conditioned_on_labels(self) -> bool:
        return True

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        if cond.labels is None:
            raise ValueError("this denoiser is guided to a class: call it with cond.labels (-1 for none)")
        plain = cond if self.denoiser.conditioned_on_labels else replace(cond, labels=None)
        prediction = self.denoiser.predict(x_t, t, s, plain, generator)
        if self.weight == 0:
            return prediction
        weights = torch.where(cond.labels < 0, 0.0, self.weight)
        return ClassifierGuidedPrediction(prediction, self._ratios(x_t, t, cond.labels.clamp_min(0)), weights)

    def _ratios(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Ratios:
        process = self.process
        if not self.approximate:
            return lambda tokens: exact_ratios(self.classifier, x_t, t, labels, tokens, process.vocab_size)
        dense = first_order_ratios(self.classifier, x_t, t, labels, process.num_states).flatten(0, 1)
        return lambda tokens: dense[tokens, : process.vocab_size]

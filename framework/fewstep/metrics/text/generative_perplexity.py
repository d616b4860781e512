"""Perplexity of samples under a reference model."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.metrics.base import METRICS
from fewstep.metrics.reference import ReferenceConfig, ReferenceMetric
from fewstep.metrics.text.sample_entropy import row_entropy


@METRICS.register("generative_perplexity")
class GenerativePerplexity(ReferenceMetric):
    """exp of the mean negative log-likelihood of a token under an autoregressive model of the data.

    With a Hugging Face model the tokens are those of the model, and the first of each sample is not scored.

    Samples that repeat likely tokens fool it. So the entropy of the token counts within a sample (nats) always stands
    beside it, and both values of real samples too; good samples agree with real ones in both.
    """

    directions: ClassVar = {
        "gen_ppl": "lower",
        "gen_entropy": "info",
        "gen_ppl_data": "info",
        "gen_entropy_data": "info",
    }
    words: ClassVar = {"gen_ppl": "perplexity under a reference model"}
    beside: ClassVar = {"gen_ppl": "gen_entropy", "gen_ppl_data": "gen_entropy_data"}

    class Config(ReferenceConfig):
        type: Literal["generative_perplexity"] = "generative_perplexity"

    config: Config

    def compute(self) -> dict[str, float]:
        samples = self.samples
        values = {}
        for end, tokens in (("", samples), ("_data", self.real(len(samples)))):
            values[f"gen_ppl{end}"] = math.exp(self._mean_nll(tokens))
            values[f"gen_entropy{end}"] = float(self._entropy(tokens))
        return {name: values[name] for name in self.directions}

    def _entropy(self, tokens: Tensor) -> Tensor:
        return row_entropy(tokens, self.dataset.spec.vocab_size, self.dataset.text_mask(tokens)).mean()

    @torch.no_grad()
    def _mean_nll(self, tokens: Tensor) -> float:
        encoded = self.reference.encode(tokens)
        if not encoded.tokens:
            raise UserError("generative_perplexity: the samples have no token to score")
        sums = [self.reference.nll(part).double().sum() for part in encoded.split(self.config.batch_size)]
        return float(torch.stack(sums).sum()) / encoded.tokens

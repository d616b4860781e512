"""Networks of embeddings: one that denoises them, and one that also rounds them to tokens.

Shapes: B batch, L tokens, V vocabulary, D numbers of an embedding.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from fewstep.denoisers.base import Blueprint, Denoiser
from fewstep.denoisers.network import BackboneNetwork
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import HeadPrediction
from fewstep.predictions.positions import everywhere
from fewstep.runtime.streams import Randomness
from fewstep_codar.decoder import Decoder, Progress
from fewstep_codar.embedding_gaussian import embedding_process
from fewstep_codar.prediction import VectorPrediction
from fewstep_codar.settings import DecoderConfig

N = TypeVar("N", bound="RoundingDenoiser")


@runtime_checkable
class Rounder(Protocol):
    """A denoiser that turns clean vectors into tokens, one after the other."""

    def open_rounding(self, vectors: Tensor) -> Progress:
        """A decoding of vectors [B, L, D] that has no token yet."""

    def next_rows(self, progress: Progress, last: Tensor | None) -> Tensor:
        """Log-probabilities [B, V] of the next token after the last one (LongTensor [B]; None before the first).

        It is one evaluation of the decoder.
        """


class EmbeddingDenoiser(BackboneNetwork, Denoiser):
    """A backbone that reads noised embeddings and predicts clean ones; its head has D outputs."""

    description: ClassVar[str] = "A diffusion of embeddings"

    @classmethod
    def head_size(cls, blueprint: Blueprint) -> int:
        return blueprint.process.num_states

    @property
    def takes_token_times(self) -> bool:
        return self.backbone.takes_token_times

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        process = embedding_process(self.process)
        output = self.backbone.head(self.backbone(x_t, t, residual=self._residual(x_t, t, s, cond, generator)))
        vectors = process.clean(output.float(), x_t, t)
        return VectorPrediction(vectors, process.rows(x_t.device), process.to_ids(x_t), process.to_predict(x_t))


class RoundingDenoiser(EmbeddingDenoiser):
    """A trained denoiser of embeddings, whose weights stay, and a decoder of what it predicts, which is trained.

    An evaluation of the decoder for one token computes as much as its share of the backbone's parameters says. All
    tokens of a sample together take that share of a pass, with keys and values that are computed once.
    """

    description: ClassVar[str] = "A diffusion of embeddings with an autoregressive decoder"
    evaluated_by: ClassVar[tuple[str, ...]] = (*Denoiser.evaluated_by, "decode", "open_rounding", "next_rows")
    decoder: Decoder

    @classmethod
    def build(cls: type[N], blueprint: Blueprint) -> N:
        network = super().build(blueprint)
        assert isinstance(blueprint.objective, DecoderConfig)
        width, depth, heads = blueprint.objective.sizes(network.backbone.width, len(network.backbone.layers()))
        network.decoder = Decoder(
            vocab_size=network.process.vocab_size,
            length=network.length,
            dim=network.process.num_states,
            width=width,
            depth=depth,
            heads=heads,
        )
        return network

    def take_gradients(self, trained: bool) -> None:
        self.requires_grad_(False)
        self.decoder.requires_grad_(trained)

    @property
    def share(self) -> float:
        """The decoder's parameters as a share of the backbone's."""
        return sum(p.numel() for p in self.decoder.parameters()) / self.backbone.num_parameters()

    def decode(self, tokens: Tensor, vectors: Tensor) -> Prediction:
        """Each token of [B, L] given those before it and all vectors [B, L, D]; one evaluation."""
        self._count(tokens, computed=self.share * tokens.numel())
        hidden, vocab_size = self.decoder(tokens, vectors), self.process.vocab_size
        return HeadPrediction(hidden, self.decoder.head, vocab_size, tokens, everywhere(torch.ones_like(tokens)))

    def open_rounding(self, vectors: Tensor) -> Progress:
        return self.decoder.open(vectors)

    def next_rows(self, progress: Progress, last: Tensor | None) -> Tensor:
        hidden = self.decoder.step(progress, last)
        self._count(hidden[:, None], computed=self.share * len(hidden))
        rows: Tensor = self.decoder.head(hidden).float().log_softmax(-1)
        return rows

"""Reference models of metrics: distributions over token sequences with a log-likelihood and its gradient.

Shapes: B samples, L tokens of the data, T tokens of the reference, D its width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.likelihood.autoregressive import check_autoregressive, last_hidden, token_nll
from fewstep.runtime.digest import weights_digest


@dataclass(frozen=True)
class Encoded:
    """Samples as tokens of a reference: `ids` (LongTensor [B, T]), and the mask `counted` (BoolTensor [B, T]) of the
    tokens that are scored."""

    ids: Tensor
    counted: Tensor

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return int(self.counted.sum())

    def split(self, size: int) -> Iterator[Encoded]:
        """Parts of up to `size` samples."""
        yield from (Encoded(*part) for part in zip(self.ids.split(size), self.counted.split(size), strict=True))


class Reference(ABC):
    """An autoregressive model that metrics compare by; its weights do not change.

    `network` holds the weights. `scores_first` says whether the first token of a sample is scored too.
    """

    network: torch.nn.Module
    scores_first: ClassVar[bool] = True

    @property
    def device(self) -> torch.device:
        """Device of its weights."""
        return next(self.network.parameters()).device

    @abstractmethod
    def encode(self, samples: Tensor) -> Encoded:
        """Samples (LongTensor [B, L]) as tokens of the reference, on the CPU."""

    @abstractmethod
    def nll(self, encoded: Encoded) -> Tensor:
        """-log p of each token given those before it, in nats [B, T], 0 for unscored tokens; with gradient."""

    def features(self, encoded: Encoded) -> Tensor:
        """Hidden state at the end of each sample (float [B, D]).

        Raises:
            UserError: this kind of reference has no hidden states.
        """
        raise UserError(f"a reference of type {type(self).__name__} has no hidden states to compare samples by")

    def same_weights_as(self, generator: Denoiser) -> bool:
        """Whether a generator of samples has the weights of the reference, with or without guidance around it."""
        while isinstance(generator, DenoiserAround):
            generator = generator.denoiser
        sizes = [[weight.shape for weight in network.parameters()] for network in (generator, self.network)]
        return bool(sizes[0]) and sizes[0] == sizes[1] and weights_digest(generator) == weights_digest(self.network)


class DenoiserReference(Reference):
    """A block-autoregressive denoiser with blocks of one token, trained on the data that are scored.

    Args:
        label: name of the reference in messages.
        dataset: the samples' dataset, which says which tokens are padding; padding is not scored. None for none.

    Raises:
        UserError: it predicts more than one token at once, or is conditioned on labels.
    """

    def __init__(self, denoiser: Denoiser, label: str, dataset: Dataset | None = None) -> None:
        check_autoregressive(denoiser, label)
        self.network: Denoiser = denoiser
        self.dataset = dataset

    def encode(self, samples: Tensor) -> Encoded:
        samples = samples.cpu()
        if self.dataset is None:
            return Encoded(samples, torch.ones_like(samples, dtype=torch.bool))
        return Encoded(samples, self.dataset.text_mask(samples))

    def nll(self, encoded: Encoded) -> Tensor:
        nll = token_nll(self.network, encoded.ids.to(self.device))
        return nll if bool(encoded.counted.all()) else nll.masked_fill(~encoded.counted.to(self.device), 0.0)

    def features(self, encoded: Encoded) -> Tensor:
        return last_hidden(self.network, encoded.ids.to(self.device), encoded.counted.sum(1) - 1)

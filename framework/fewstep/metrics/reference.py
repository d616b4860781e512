"""Metrics that compare by a reference model: an autoregressive network of the same data, or of text in general."""

from __future__ import annotations

import sys
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.references import Ref
from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.data.synthetic.source import Source
from fewstep.denoisers.base import Denoiser
from fewstep.likelihood.causal_lm import load_causal_lm
from fewstep.likelihood.references import DenoiserReference, Reference
from fewstep.metrics.base import CollectingMetric, MetricConfig
from fewstep.runtime.hub import PREFIX
from fewstep.runtime.seeding import generator_for


class ReferenceConfig(MetricConfig):
    """Settings of every metric that has a reference."""

    reference: Annotated[str, Ref("model")] = Field(
        description="run or exported file of an autoregressive model of the same data; in a suite also one of its "
        "cases; or a Hugging Face causal language model: hf:FOLDER, hf:FILE.gguf, hf:gpt2-large, hf:NAME@COMMIT"
    )
    batch_size: int = Field(100, ge=1, description="samples that the reference reads at once")
    reads: Literal["text", "ids"] = Field(
        "text",
        description="input of a Hugging Face model: the samples' text, by its own tokenizer, or their ids",
    )


class ReferenceMetric(CollectingMetric):
    """Stores the samples, and compares them with the same number of real ones: held-out data, or else training data.

    Args:
        reference: an open model in the place of the one that `config.reference` names; a denoiser must be
            autoregressive.

    Raises:
        UserError: the reference cannot be loaded, knows other data, or is no autoregressive model.
    """

    Config: ClassVar[type[ReferenceConfig]]
    config: ReferenceConfig
    misled_by_own_samples: ClassVar[bool] = False
    """Whether the reference's own samples score well regardless of their quality."""

    def __init__(
        self, config: ReferenceConfig, *, dataset: Dataset, reference: Denoiser | Reference | None = None
    ) -> None:
        super().__init__(config, dataset=dataset)
        self.reference = reference if isinstance(reference, Reference) else self._load(config, reference)

    def _load(self, config: ReferenceConfig, denoiser: Denoiser | None) -> Reference:
        if denoiser is None and config.reference.startswith(PREFIX):
            return load_causal_lm(config.reference, self.dataset, reads=config.reads)
        network = self.network("reference") if denoiser is None else denoiser
        label = f"{config.type}: the reference '{config.reference}'"
        if not isinstance(network, Denoiser):
            raise UserError(f"{label} is no autoregressive model: {network.refusal}")
        return DenoiserReference(network, label, self.dataset)

    def real(self, count: int) -> Tensor:
        """Up to `count` different real samples, always the same ones (LongTensor [N, L])."""
        return real_samples(self.dataset, count)

    def warn_of(self, generator: Denoiser) -> None:
        """Warn on standard error if the generator is the reference itself and the value is worthless then."""
        if self.misled_by_own_samples and self.reference.same_weights_as(generator):
            print(
                f"warning: {self.config.type}: the samples are those of its reference '{self.config.reference}', which "
                "score low regardless of their quality; judge this model by another reference",
                file=sys.stderr,
                flush=True,
            )


def scored_rows(dataset: Dataset, part: Literal["held_out", "train"], count: int, metric: str) -> Tensor:
    """Up to `count` real samples that a bound is measured on, always the same ones (LongTensor [N, L]).

    Those of a source with a known distribution are fresh draws of it.

    Args:
        metric: name of the metric, in messages and for its random numbers.

    Raises:
        UserError: samples that are held out are asked for, and the data have none.
    """
    if part == "train":
        order = torch.randperm(len(dataset.train), generator=generator_for(0, f"{metric}/train"))
        return dataset.train[order[:count]].long()
    if dataset.held_out is not None:
        return real_samples(dataset, count)
    if isinstance(dataset, Source):
        return dataset.draw(count, generator_for(0, f"{metric}/draw"))
    raise UserError(
        f"{metric}: data '{dataset.config.type}' hold no samples out; hold some out (data.held_out, where the data "
        "have it), or measure the training data, which a model may know by heart, with `of: train`"
    )


def real_samples(dataset: Dataset, count: int) -> Tensor:
    """Up to `count` different samples of the held-out data, or else of the training data, always the same ones."""
    source = dataset.train if dataset.held_out is None else dataset.held_out
    return source[real_rows(dataset, count)].long()


def real_images(dataset: Dataset, count: int) -> Tensor:
    """The samples of `real_samples` as images before tokenization (float [N, C, H, W]); the data must be images."""
    return image_data(dataset).originals(real_rows(dataset, count), held_out=dataset.held_out is not None)


def real_rows(dataset: Dataset, count: int) -> Tensor:
    """Row numbers of `real_samples` in the held-out data, or else in the training data (LongTensor [N])."""
    source = dataset.train if dataset.held_out is None else dataset.held_out
    return torch.randperm(len(source), generator=generator_for(0, "metric/real"))[:count]

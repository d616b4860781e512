"""Number of bits in which a model encodes held-out data.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, Dataset
from fewstep.likelihood.bounds import score_model, unscored
from fewstep.metrics.base import METRICS, DrawnFrom, MetricConfig, ModelMetric, ToScore
from fewstep.metrics.reference import scored_rows


@METRICS.register("likelihood_bound")
class LikelihoodBound(ModelMetric):
    """Negative ELBO on held-out data in bits a token: bits per dimension of images, per character of characters.

    It measures the model and no samples, so it is the same at any number of sampling steps. `bound_bits` is an upper
    bound on -log2 p(x) / L, of ancestral sampling in `steps` equal steps (D3PM, arXiv 2107.03006, eq. 1). For an
    autoregressive model it is exact, and `bound_exact` is 1. Data are the held-out samples, or fresh draws of a known
    distribution.

    Repetition does not fool it, unlike perplexity of samples. It is blind to the sampler, so it says nothing about
    samples in few steps. Students that learn to draw and not to predict have no bound. `bound_bits_stderr` counts
    samples as independent, which overlapping windows of one text are not.
    """

    directions: ClassVar = {"bound_bits": "lower", "bound_bits_stderr": "info", "bound_exact": "info"}
    words: ClassVar = {"bound_bits": "bits that the data cost (upper bound)"}

    class Config(MetricConfig):
        type: Literal["likelihood_bound"] = "likelihood_bound"
        per: Literal["token", "character"] = Field(
            "token", description="unit that bits are divided by: tokens, or characters of the decoded text"
        )
        of: Literal["held_out", "train"] = Field(
            "held_out", description="which data; a model may know training samples by heart"
        )
        samples: int = Field(512, ge=2, description="most real samples that are scored")
        steps: int = Field(1024, ge=1, description="steps of the walk; more make the bound tighter")
        evaluations: int = Field(32, ge=1, description="steps evaluated for each sample, chosen at random, unbiased")
        batch_size: int = Field(64, ge=1, description="samples scored at once")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            if self.per == "character" and DATASETS.get(recipe.data.type).cls.kind != "text":
                yield "per", f"data '{recipe.data.type}' have no characters; set it to token"

        def refuses(self, to_score: ToScore) -> str | None:
            model = to_score.model
            if model is None:
                return None
            if model.denoiser.conditioned_on_labels:
                return f"'{model.recipe.name}' is conditioned on a class, which held-out samples do not carry"
            return unscored(model)

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        if config.per == "character" and dataset.kind != "text":
            raise UserError(f"likelihood_bound: data '{dataset.config.type}' have no characters; set per to token")

    def measure(self, model: DrawnFrom) -> dict[str, float]:
        c, rows = self.config, self._rows()
        scores = score_model(
            model,
            rows,
            steps=c.steps,
            evaluations=c.evaluations,
            batch_size=c.batch_size,
            text=self.dataset.text_mask(rows),
        )
        bits = scores.nats * (scores.tokens / math.log(2))
        mean, error = ratio(bits, self._units(rows))
        return {"bound_bits": mean, "bound_bits_stderr": error, "bound_exact": float(scores.exact)}

    def _units(self, rows: Tensor) -> Tensor:
        """Number of tokens or characters of each sample, which its bits are divided by: float64 [N]."""
        if self.config.per == "token":
            return self.dataset.text_mask(rows).sum(1).double()
        return torch.tensor([len(text) for text in self.dataset.to_text(rows)], dtype=torch.float64)

    def _rows(self) -> Tensor:
        """The real samples that are scored, LongTensor [N, L]."""
        return scored_rows(self.dataset, self.config.of, self.config.samples, self.config.type)


def ratio(bits: Tensor, units: Tensor) -> tuple[float, float]:
    """Bits a unit over all samples, sum of `bits` [N] over sum of `units` [N], and its standard error to first order.

    If all samples have the same number of units, these are mean and standard error of the mean.
    """
    mean = bits.sum() / units.sum()
    residuals = bits - mean * units
    return float(mean), float(residuals.std() * len(bits) ** 0.5 / units.sum())

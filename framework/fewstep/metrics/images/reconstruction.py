"""Loss of the image tokenizer: no model of the tokens scores below it.

Shapes: M images.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fewstep.backbones.autoencoder import perplexity
from fewstep.data.images.base import image_data
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.images.feature_frechet import frechet_distance
from fewstep.metrics.images.features import classifier_for, needs_labelled_images
from fewstep.metrics.reference import real_images, real_samples


@METRICS.register("reconstruction")
class Reconstruction(Metric):
    """Distance of real images from their decoded tokens, and the number of tokens in use; it ignores samples.

    `reconstruction_rmse` is the root mean square difference of pixels in [0, 1], `reconstruction_frechet` the Frechet
    distance in the features of `feature_frechet`, of held-out images if there are any. `tokens_used` is the share of
    the vocabulary that occurs in the training data. `token_perplexity` is exp of the entropy of the tokens'
    frequencies. The metric is meant for `vq_tokens`: data whose tokens are the pixels lose nothing.
    """

    directions: ClassVar = {
        "reconstruction_rmse": "info",
        "reconstruction_frechet": "info",
        "tokens_used": "info",
        "token_perplexity": "info",
    }

    class Config(MetricConfig):
        type: Literal["reconstruction"] = "reconstruction"
        most: int = Field(10_000, ge=2, description="images that are compared, always the same ones")

        def refuses(self, to_score: ToScore) -> str | None:
            return needs_labelled_images(to_score.data)

    config: Config

    def update(self, samples: Tensor) -> None:
        pass

    def compute(self) -> dict[str, float]:
        return self._values

    @cached_property
    def _values(self) -> dict[str, float]:
        dataset = self.dataset
        real = real_images(dataset, self.config.most)
        decoded = image_data(dataset).to_images(real_samples(dataset, self.config.most))
        features = classifier_for(dataset).features
        tokens, symbols = dataset.train[:].long(), dataset.spec.vocab_size
        return {
            "reconstruction_rmse": float((decoded - real).double().square().mean().sqrt()),
            "reconstruction_frechet": frechet_distance(features(decoded), features(real)),
            "tokens_used": len(tokens.unique()) / symbols,
            "token_perplexity": float(perplexity(tokens, symbols)),
        }

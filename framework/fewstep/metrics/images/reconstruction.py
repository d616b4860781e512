"""What is lost where images become tokens: a floor below which no model of the tokens comes.

Shapes: M images.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fewstep.backbones.autoencoder import perplexity
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.images.feature_frechet import frechet_distance
from fewstep.metrics.images.features import classifier_for, needs_labelled_images
from fewstep.metrics.reference import real_images, real_samples


@METRICS.register("reconstruction")
class Reconstruction(Metric):
    """How far real images are from what their tokens are shown as, and how many tokens they use; samples do not matter.

    `reconstruction_rmse` is the root mean square difference of pixels in [0, 1], `reconstruction_frechet` the Frechet
    distance in the features of `feature_frechet`, of held-out images if there are any. `tokens_used` is the share of
    the vocabulary that occurs in the training data, `token_perplexity` how many equally frequent tokens would vary as
    much. Data whose tokens are the pixels lose nothing: it is meant for `vq_tokens`.
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
        made = dataset.to_images(real_samples(dataset, self.config.most))
        assert made is not None
        features = classifier_for(dataset).features
        tokens, symbols = dataset.train[:].long(), dataset.spec.vocab_size
        return {
            "reconstruction_rmse": float((made - real).double().square().mean().sqrt()),
            "reconstruction_frechet": frechet_distance(features(made), features(real)),
            "tokens_used": len(tokens.unique()) / symbols,
            "token_perplexity": float(perplexity(tokens, symbols)),
        }

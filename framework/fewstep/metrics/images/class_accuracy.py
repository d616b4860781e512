"""Agreement of samples with the class that they were conditioned on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.images.features import classifier_for, needs_labelled_images


@METRICS.register("class_accuracy")
class ClassAccuracy(Metric):
    """Share of samples that a small classifier assigns to their class (it errs too: see the value of real samples)."""

    directions: ClassVar = {"class_accuracy": "higher"}
    words: ClassVar = {"class_accuracy": "share of the class that was asked for"}

    class Config(MetricConfig):
        type: Literal["class_accuracy"] = "class_accuracy"

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            if recipe.label_input is None and getattr(recipe.sampler, "classifier", None) is None:
                yield "", "class_accuracy compares with the classes asked for; add `label_input: {}`"

        def refuses(self, to_score: ToScore) -> str | None:
            return needs_labelled_images(to_score.data)

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.classifier = classifier_for(dataset)
        self.right, self.total = 0, 0

    def update(self, samples: Tensor) -> None:
        raise UserError("class_accuracy: these samples were asked for no class, since their recipe has no label_input")

    def update_labelled(self, samples: Tensor, labels: Tensor | None) -> None:
        if labels is None:
            return self.update(samples)
        images = image_data(self.dataset).to_images(samples.cpu())
        self.right += int((self.classifier.classify(images) == labels.cpu()).sum())
        self.total += len(labels)
        return None

    def compute(self) -> dict[str, float]:
        return {"class_accuracy": self.right / self.total}

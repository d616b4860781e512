"""Metrics: numbers that say how good and how varied samples are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.core.registry import Registry
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoisers.base import Denoiser, Network

if TYPE_CHECKING:
    from fewstep.recipe.models import Recipe


@dataclass(frozen=True)
class DrawnFrom:
    """The model that draws the samples: a network, or a source's exact denoiser, without the additions of a sampler.

    The recipe states the sampler and the objective.
    """

    denoiser: Denoiser
    recipe: Recipe


@dataclass(frozen=True)
class ToScore:
    """The data and the model that a metric is asked to score. `MetricConfig.refuses` decides from it.

    Args:
        data: kind of data of the samples. While a recipe is read, nothing else is known.
        here: whether the metric is about to be computed, so that packages and files must be on this machine.
        model: the model that draws the samples, for a metric of models that is about to measure it.
    """

    data: type[Dataset]
    here: bool = False
    model: DrawnFrom | None = None


class MetricConfig(ComponentConfig):
    """Settings of every metric."""

    def refuses(self, to_score: ToScore) -> str | None:
        """Reason why the metric cannot score this, in one clause; None if it can."""
        return None

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        if reason := self.refuses(ToScore(DATASETS.get(recipe.data.type).cls)):
            yield "", f"metric '{self.type}' cannot score '{recipe.data.type}': {reason}"


class Metric(Component, ABC):
    """Scores samples against a dataset: pass batches to `update`, then call `compute`.

    `directions` maps the name of every value of `compute` to the better direction ("info": neither).

    Raises:
        UserError: the metric cannot score these data, or a package or file that it needs is missing.
    """

    Config: ClassVar[type[MetricConfig]] = MetricConfig
    moved: ClassVar[Mapping[str, str]] = {
        **Component.moved,
        **dict.fromkeys(
            ("unsuited", "lacking", "refuses"), "move it into its Config, as `def refuses(self, to_score)`"
        ),
    }
    config: MetricConfig

    directions: ClassVar[Mapping[str, Literal["lower", "higher", "info"]]]
    beside: ClassVar[Mapping[str, str]] = {}
    """Values that mislead alone -> the value that is shown beside each of them."""
    words: ClassVar[Mapping[str, str]] = {}
    """Values -> what they are, for readers of plots who know no metric by its name."""
    of_models: ClassVar[bool] = False
    """Whether it judges the model that draws the samples, and no samples (`ModelMetric`)."""

    def __init__(self, config: MetricConfig, *, dataset: Dataset) -> None:
        super().__init__(config)
        if reason := self.config.refuses(ToScore(type(dataset), here=True)):
            raise UserError(f"{self.config.type}: {reason}")
        self.dataset = dataset

    def network(self, key: str) -> Network:
        """The network that a setting names (`Annotated[str, Ref("run")]`), for the same data.

        Args:
            key: the setting, dotted below the metric's section.

        Raises:
            UserError: there is none, or it was trained on other data.
        """
        model = self.open_model(key, device="auto")
        if model.dataset.fingerprint != self.dataset.fingerprint:
            raise UserError(
                f"{self.config.type}: the {key} '{model.path}' was trained on other data; train it on these"
            )
        network: Network = model.network
        return network

    @abstractmethod
    def update(self, samples: Tensor) -> None:
        """Add samples (LongTensor [N, L])."""

    def update_labelled(self, samples: Tensor, labels: Tensor | None) -> None:
        """Add samples with the classes [N] that they were conditioned on, None without; by default plain `update`."""
        self.update(samples)

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values over all samples added since construction."""


class CollectingMetric(Metric):
    """A metric of all samples together: it stores them (`batches`, LongTensors [N, L] on the CPU) until `compute`."""

    def __init__(self, config: MetricConfig, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.batches: list[Tensor] = []

    def update(self, samples: Tensor) -> None:
        self.batches.append(samples.cpu())

    @property
    def samples(self) -> Tensor:
        """All samples so far, LongTensor [N, L]."""
        return torch.cat(self.batches)


class ModelMetric(Metric):
    """A metric of the model that draws the samples, measured once for all numbers of sampling steps."""

    of_models: ClassVar[bool] = True

    def __init__(self, config: MetricConfig, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.values: dict[str, float] = {}

    @abstractmethod
    def measure(self, model: DrawnFrom) -> dict[str, float]:
        """The values of a model."""

    def look_at(self, model: DrawnFrom) -> None:
        """Measure a model; `compute` then returns its values."""
        self.values = self.measure(model)

    def update(self, samples: Tensor) -> None:
        """Ignore the samples."""

    def compute(self) -> dict[str, float]:
        return self.values


METRICS: Registry[Metric] = Registry("metric", Metric, "fewstep.metrics")

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
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.network import NetworkDenoiser

if TYPE_CHECKING:
    from fewstep.recipe.models import Recipe


@dataclass(frozen=True)
class DrawnFrom:
    """What draws the samples: a network, or a source's exact denoiser, without what a sampler adds to it; and the
    recipe, which has the sampler and the objective."""

    denoiser: Denoiser
    recipe: Recipe


@dataclass(frozen=True)
class ToScore:
    """What a metric would score, as far as that is known when it is asked whether it can.

    Args:
        data: kind of data that samples are of. A recipe that is read knows nothing else.
        here: whether it is about to be computed, so that packages and files must be on this machine.
        model: what draws the samples, for a metric of models that is about to measure it.
    """

    data: type[Dataset]
    here: bool = False
    model: DrawnFrom | None = None


class MetricConfig(ComponentConfig):
    """Settings of every metric."""

    def refuses(self, to_score: ToScore) -> str | None:
        """Why the metric cannot score that, in one clause, or None if it can."""
        return None

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        if reason := self.refuses(ToScore(DATASETS.get(recipe.data.type).cls)):
            yield "", f"metric '{self.type}' cannot score '{recipe.data.type}': {reason}"


class Metric(Component, ABC):
    """Scores samples against a dataset: feed batches to `update`, then read `compute`.

    `directions` names every value that `compute` returns and which way is better ("info": neither).

    Raises:
        UserError: it cannot score these data, or something that it needs is not here.
    """

    Config: ClassVar[type[MetricConfig]] = MetricConfig
    config: MetricConfig

    directions: ClassVar[Mapping[str, Literal["lower", "higher", "info"]]]
    beside: ClassVar[Mapping[str, str]] = {}
    """Values that say nothing alone, and which other one stands beside each wherever people see it."""
    of_models: ClassVar[bool] = False
    """Whether it judges what draws the samples, and no samples (`ModelMetric`)."""

    def __init__(self, config: MetricConfig, *, dataset: Dataset) -> None:
        super().__init__(config)
        if reason := self.config.refuses(ToScore(type(dataset), here=True)):
            raise UserError(f"{self.config.type}: {reason}")
        self.dataset = dataset

    def network(self, key: str) -> NetworkDenoiser:
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
        network: NetworkDenoiser = model.network
        return network

    @abstractmethod
    def update(self, samples: Tensor) -> None:
        """Add samples (LongTensor [N, L])."""

    def update_labelled(self, samples: Tensor, labels: Tensor | None) -> None:
        """What scoring calls: `update`, for a metric to which it matters which class [N] was asked for, if any was."""
        self.update(samples)

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values over everything added since construction."""


class CollectingMetric(Metric):
    """A metric of all samples together: it keeps them (`seen`, LongTensors [N, L] on the CPU) until `compute`."""

    def __init__(self, config: MetricConfig, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.seen: list[Tensor] = []

    def update(self, samples: Tensor) -> None:
        self.seen.append(samples.cpu())

    @property
    def samples(self) -> Tensor:
        """All of them, LongTensor [N, L]."""
        return torch.cat(self.seen)


class ModelMetric(Metric):
    """A metric of what draws the samples, not of samples: measured once a model, whatever the number of steps."""

    of_models: ClassVar[bool] = True

    def __init__(self, config: MetricConfig, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.found: dict[str, float] = {}

    @abstractmethod
    def measure(self, model: DrawnFrom) -> dict[str, float]:
        """The values of a model."""

    def look_at(self, model: DrawnFrom) -> None:
        """Measure a model; `compute` then returns its values."""
        self.found = self.measure(model)

    def update(self, samples: Tensor) -> None:
        """Samples do not matter."""

    def compute(self) -> dict[str, float]:
        return self.found


METRICS: Registry[Metric] = Registry("metric", Metric, "fewstep.metrics")

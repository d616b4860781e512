"""Protocols of the recipe sections that components read in `check_recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol


class ComponentView(Protocol):
    """Settings of a component: `type` is its registry name."""

    @property
    def type(self) -> str: ...

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, object]: ...


class EvaluateView(Protocol):
    """Keys of `evaluate` that components read."""

    @property
    def steps(self) -> tuple[int, ...]: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def metrics(self) -> Sequence[ComponentView]: ...


class TrainView(Protocol):
    """Keys of `train` that components read."""

    @property
    def steps(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def accumulate(self) -> int: ...

    @property
    def device(self) -> str: ...


class RecipeView(Protocol):
    """Sections that components read; `fewstep.recipe.models.Recipe` implements it."""

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> ComponentView: ...

    @property
    def process(self) -> ComponentView: ...

    @property
    def backbone(self) -> ComponentView: ...

    @property
    def noise_input(self) -> ComponentView | None: ...

    @property
    def step_input(self) -> object | None: ...

    @property
    def label_input(self) -> object | None: ...

    @property
    def objective(self) -> ComponentView: ...

    @property
    def output(self) -> str | None: ...

    @property
    def sampler(self) -> ComponentView: ...

    @property
    def start_from(self) -> Mapping[str, str]: ...

    @property
    def train(self) -> TrainView: ...

    @property
    def evaluate(self) -> EvaluateView: ...

"""A recipe as its components see it, when they check whether they fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol


class Named(Protocol):
    """Settings of a component: `type` is its registry name."""

    @property
    def type(self) -> str: ...

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, object]: ...


class EvaluateView(Protocol):
    """What of `evaluate` components look at."""

    @property
    def steps(self) -> tuple[int, ...]: ...

    @property
    def metrics(self) -> Sequence[Named]: ...


class TrainView(Protocol):
    """What of `train` components look at."""

    @property
    def steps(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def accumulate(self) -> int: ...

    @property
    def device(self) -> str: ...


class RecipeView(Protocol):
    """The sections that components look at; `fewstep.recipe.models.Recipe` is one."""

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> Named: ...

    @property
    def process(self) -> Named: ...

    @property
    def backbone(self) -> Named: ...

    @property
    def noise_input(self) -> Named | None: ...

    @property
    def step_input(self) -> object | None: ...

    @property
    def label_input(self) -> object | None: ...

    @property
    def objective(self) -> Named: ...

    @property
    def sampler(self) -> Named: ...

    @property
    def start_from(self) -> Mapping[str, str]: ...

    @property
    def train(self) -> TrainView: ...

    @property
    def evaluate(self) -> EvaluateView: ...

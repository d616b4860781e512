"""Sweeps of a case: of a setting of its sampler, or of keys of its recipe.

A setting of the sampler (temperature, top_p) trades quality for diversity, and trains nothing: one model at one number
of steps is sampled with several values, and models are compared by whole curves. Keys of the recipe are other
trainings: the case becomes a case for each combination of values (`recipe_sweep`).
Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import ConfigDict, Field, PositiveInt

from fewstep.bench.suites.recipe_sweep import Point, count_problem, points_of, range_problems, read_ranges
from fewstep.core.component import Strict
from fewstep.recipe.yaml_loader import Key

_EXAMPLE = "sweep: {temperature: [0.7, 0.85, 1.0]}"


class SweepSpec(Strict):
    """Values of the sampler's settings, one setting at a time, beside the case's own rows; or values of recipe keys.

    All other keys are keys of the recipe, such as `optim.lr`, with a list of values or a range.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, object]

    temperature: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="values of the sampler's temperature"
    )
    top_p: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="values of the sampler's top_p"
    )
    steps: PositiveInt | None = Field(
        None, description="number of steps to sample with, or to judge points by; optional if the case has only one"
    )
    draws: PositiveInt | None = Field(
        None, description="number of combinations of recipe keys to draw at random; null for all of them"
    )
    seed: int = Field(0, ge=0, description="seed of these draws")

    @property
    def keys(self) -> dict[str, object]:
        """The swept keys of the recipe, as written."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def recipe_points(self) -> list[Point]:
        """Values of the swept keys of the recipe, a training for each."""
        return points_of(read_ranges(self.keys), self.draws, self.seed) if self.keys else []

    @property
    def settings(self) -> dict[str, tuple[float, ...]]:
        """The swept settings, and their values in order."""
        fields = {"temperature": self.temperature, "top_p": self.top_p}
        return {key: values for key, values in fields.items() if values is not None}

    @property
    def points(self) -> list[dict[str, float]]:
        """The setting and its value at each point of all curves."""
        return [{key: value} for key, values in self.settings.items() for value in values]

    def step_count(self, steps: Sequence[int]) -> int:
        """Number of steps of the sweep, for a case with these numbers of steps."""
        return self.steps or steps[-1]

    def text(self, steps: Sequence[int]) -> str:
        """`temperature 0.7, 1 at 8 steps`, for a case with these numbers of steps."""
        curves = (f"{key} {', '.join(f'{value:g}' for value in values)}" for key, values in self.settings.items())
        return f"{', '.join(curves)} at {self.step_count(steps)} steps"

    def reduced(self, steps: Sequence[int] | None) -> SweepSpec:
        """The sweep for `--quick`: the first and the last value, at the last of `steps` if `--quick` sets them."""
        ends = {key: values[:: max(1, len(values) - 1)] for key, values in self.settings.items()}
        reduced = self.model_copy(update={**ends, "steps": steps[-1] if steps else self.steps})
        if not self.keys:
            return reduced
        points = points_of({key: values.ends for key, values in read_ranges(self.keys).items()}, None, 0)
        first, last = points[0], points[-1]
        ends_of_keys = {key: list(dict.fromkeys((first[key], last[key]))) for key in first}
        return SweepSpec.model_validate(
            {**ends_of_keys, "steps": reduced.steps, "draws": 2 if len(first) > 1 else None}
        )

    def problems(self, steps: Sequence[int]) -> Iterator[tuple[Key, str]]:
        """Problems of the sweep for a case with these numbers of steps, as keys and messages."""
        if self.keys:
            yield from self._recipe_problems()
        elif not self.settings:
            yield (), f"give values of temperature, of top_p, or of each: {_EXAMPLE}"
        for key, values in self.settings.items():
            if len(values) < 2:
                yield (key,), f"a curve needs at least two values: {_EXAMPLE}"
            duplicates = sorted({value for value in values if values.count(value) > 1})
            if duplicates:
                yield (key,), f"{duplicates[0]:g} is listed twice"
        listed = ", ".join(map(str, steps))
        if self.steps is None and len(steps) > 1:
            yield (), f"add `steps: N`, the number of steps of the sweep; the case is measured at {listed}"
        elif self.steps is not None and self.steps not in steps:
            yield ("steps",), f"the case is not measured at {self.steps} steps; it is at {listed}"

    def _recipe_problems(self) -> Iterator[tuple[Key, str]]:
        """Problems of the swept keys of the recipe."""
        from fewstep.recipe.models import Recipe

        problems = list(range_problems(self.keys, self.draws, list(Recipe.model_fields), list(SweepSpec.model_fields)))
        yield from problems
        if self.settings and not problems:
            yield (), "sweeps settings of the sampler, or keys of the recipe, not both; make it two cases"
        elif not problems and (message := count_problem(read_ranges(self.keys), self.draws)):
            yield (), message


def sweep_text(sweep: dict[str, float] | None) -> str:
    """`temperature 0.7`; empty for a row without a sweep."""
    return ", ".join(f"{key} {value:g}" for key, value in (sweep or {}).items())

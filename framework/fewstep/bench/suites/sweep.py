"""Sweeps: one model at one number of steps, sampled with several values of a setting of its sampler.

Such a setting trades quality for diversity. Models are therefore compared by whole curves and not by single points.
Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

from fewstep.core.component import Strict
from fewstep.recipe.yaml_loader import Key

_EXAMPLE = "sweep: {temperature: [0.7, 0.85, 1.0]}"


class SweepSpec(Strict):
    """Values of the sampler's settings, one setting at a time. The case's own rows are measured too."""

    temperature: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="values of the sampler's temperature"
    )
    top_p: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="values of the sampler's top_p"
    )
    steps: PositiveInt | None = Field(
        None, description="number of steps to sample with; optional if the case has only one"
    )

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
        return self.model_copy(update={**ends, "steps": steps[-1] if steps else self.steps})

    def problems(self, steps: Sequence[int]) -> Iterator[tuple[Key, str]]:
        """Problems of the sweep for a case with these numbers of steps, as keys and messages."""
        if not self.settings:
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


def sweep_text(sweep: dict[str, float] | None) -> str:
    """`temperature 0.7`; empty for a row without a sweep."""
    return ", ".join(f"{key} {value:g}" for key, value in (sweep or {}).items())

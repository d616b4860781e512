"""Sweeps: one model at one number of steps, sampled with several values of a setting of its sampler.

Quality and diversity pull at such a setting from both sides, so models compare by the curve that it draws and not by a
point of it. Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

from fewstep.core.component import Strict
from fewstep.recipe.yaml_loader import Key

_EXAMPLE = "sweep: {temperature: [0.7, 0.85, 1.0]}"


class SweepSpec(Strict):
    """Values of settings of the sampler, one setting at a time, beside what the case is measured at anyway."""

    temperature: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="values of the sampler's temperature"
    )
    top_p: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="values of the sampler's top_p"
    )
    steps: PositiveInt | None = Field(
        None, description="number of steps to sample with; may be left out if the case has but one"
    )

    @property
    def settings(self) -> dict[str, tuple[float, ...]]:
        """The settings that are swept, and their values in order."""
        every = {"temperature": self.temperature, "top_p": self.top_p}
        return {key: values for key, values in every.items() if values is not None}

    @property
    def points(self) -> list[dict[str, float]]:
        """What is set at each point of each curve."""
        return [{key: value} for key, values in self.settings.items() for value in values]

    def at(self, steps: Sequence[int]) -> int:
        """The number of steps of a case that has these."""
        return self.steps or steps[-1]

    def text(self, steps: Sequence[int]) -> str:
        """`temperature 0.7, 1 at 8 steps`, for a case that has these numbers of steps."""
        curves = (f"{key} {', '.join(f'{value:g}' for value in values)}" for key, values in self.settings.items())
        return f"{', '.join(curves)} at {self.at(steps)} steps"

    def shortened(self, steps: Sequence[int] | None) -> SweepSpec:
        """The ends alone, and at the last of those steps if there are some."""
        ends = {key: values[:: max(1, len(values) - 1)] for key, values in self.settings.items()}
        return self.model_copy(update={**ends, "steps": steps[-1] if steps else self.steps})

    def problems(self, steps: Sequence[int]) -> Iterator[tuple[Key, str]]:
        """What is wrong with it, for a case that is measured at these numbers of steps."""
        if not self.settings:
            yield (), f"give values of temperature, of top_p, or of each: {_EXAMPLE}"
        for key, values in self.settings.items():
            if len(values) < 2:
                yield (key,), f"a curve takes two values at least: {_EXAMPLE}"
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                yield (key,), f"{twice[0]:g} is listed twice"
        listed = ", ".join(map(str, steps))
        if self.steps is None and len(steps) > 1:
            yield (), f"say at which number of steps, with `steps: N` in it; the case is measured at {listed}"
        elif self.steps is not None and self.steps not in steps:
            yield ("steps",), f"the case is not measured at {self.steps} steps; it is at {listed}"


def swept_text(sweep: dict[str, float] | None) -> str:
    """`temperature 0.7`; nothing where nothing is swept."""
    return ", ".join(f"{key} {value:g}" for key, value in (sweep or {}).items())

"""Sweeps: one model at one number of steps, sampled with several values of a setting of its sampler.

Quality and diversity pull at such a setting from both sides, so models compare by the curve that it draws and not by a
point of it. Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

from fewstep.component import Strict
from fewstep.recipe.yaml_loader import Key

_EXAMPLE = "sweep: {temperature: [0.7, 0.85, 1.0]}"


class SweepSpec(Strict):
    """Values of one setting of the sampler, each of which is measured beside what the case is measured at anyway."""

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
    def key(self) -> str:
        """Which setting."""
        return "temperature" if self.temperature is not None else "top_p"

    @property
    def values(self) -> tuple[float, ...]:
        """Its values, in order."""
        return self.temperature or self.top_p or ()

    def at(self, steps: Sequence[int]) -> int:
        """The number of steps of a case that has these."""
        return self.steps or steps[-1]

    def text(self, steps: Sequence[int]) -> str:
        """`temperature 0.7, 1 at 8 steps`, for a case that has these numbers of steps."""
        return f"{self.key} {', '.join(f'{value:g}' for value in self.values)} at {self.at(steps)} steps"

    def shortened(self, steps: Sequence[int] | None) -> SweepSpec:
        """The ends alone, and at the last of those steps if there are some."""
        update = {self.key: self.values[:: max(1, len(self.values) - 1)], "steps": steps[-1] if steps else self.steps}
        return self.model_copy(update=update)

    def problems(self, steps: Sequence[int]) -> Iterator[tuple[Key, str]]:
        """What is wrong with it, for a case that is measured at these numbers of steps."""
        if (self.temperature is None) == (self.top_p is None):
            yield (), f"give values of one setting, temperature or top_p: {_EXAMPLE}"
            return
        if len(self.values) < 2:
            yield (self.key,), f"a curve takes two values at least: {_EXAMPLE}"
        twice = sorted({value for value in self.values if self.values.count(value) > 1})
        if twice:
            yield (self.key,), f"{twice[0]:g} is listed twice"
        listed = ", ".join(map(str, steps))
        if self.steps is None and len(steps) > 1:
            yield (), f"say at which number of steps, with `steps: N` in it; the case is measured at {listed}"
        elif self.steps is not None and self.steps not in steps:
            yield ("steps",), f"the case is not measured at {self.steps} steps; it is at {listed}"


def swept_text(sweep: dict[str, float] | None) -> str:
    """`temperature 0.7`; nothing where nothing is swept."""
    return ", ".join(f"{key} {value:g}" for key, value in (sweep or {}).items())

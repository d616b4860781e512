"""Ancestral sampling whose last steps are one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from fewstep import SAMPLERS, Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("leap_home")
class LeapHome(WalkSampler):
    """Ancestral steps down to a time, from where one step draws all tokens that are left."""

    class Config(WalkConfig):
        type: Literal["leap_home"] = "leap_home"
        home: float = Field(0.01, ge=0, le=1, description="time of the leap")

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        prediction = walk.predict(x, step)
        if step.last or step.s < self.config.home:
            return prediction.sample(generator=walk.generator)
        now, then = walk.times(x, step.t, step.s)
        return walk.denoiser.process.step_back(x, prediction, now, then, generator=walk.generator)

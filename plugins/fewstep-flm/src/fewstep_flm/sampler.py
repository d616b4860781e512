"""Sampling along a flow, with fresh noise at each step.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.processes.base import PROCESSES
from fewstep.runtime.streams import normal
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler
from fewstep_flm.flow_map import flow_process
from fewstep_flm.onehot_gaussian import OneHotGaussian


@SAMPLERS.register("flow_map")
class FlowMapSampler(WalkSampler):
    """Jumps along the flow; `gamma` is the share of the noise that each jump but the last draws afresh.

    A jump from t to s goes on to the noise level sqrt(1 - gamma^2) (1 - g_s), takes the signal back to g_s along the
    same D, and adds gamma (1 - g_s) of new noise (FMLM's sampler). With gamma = 0 it is `ancestral`. In one step gamma
    makes no difference.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(spaces=frozenset({"continuous"}))

    class Config(WalkConfig):
        type: Literal["flow_map"] = "flow_map"
        gamma: float = Field(
            0.0, ge=0, lt=1, description="share of the noise that is drawn afresh, as its standard deviation"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            process = PROCESSES.get(recipe.process.type).cls
            if process.space == "continuous" and not issubclass(process, OneHotGaussian):
                yield "", f"flow maps are of the process onehot_gaussian, not of {recipe.process.type}"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        gamma, process = self.config.gamma, flow_process(walk.denoiser.process)
        if step.last or not gamma:
            return walk.take(walk.predict(x, step), x, step)
        now, then = walk.times(x, step.t, step.s)
        noise = 1 - process.signal(then)
        left = noise * (1 - gamma**2) ** 0.5
        beyond = float(process.time_of_signal(1 - left[0, 0, 0]))
        probs = walk.predict(x, replace(step, s=beyond)).dense_probs()
        end = process.move(x, probs, now, walk.times(x, beyond)[0])
        fresh = normal(x.shape, walk.generator, device=x.device)
        return (end + (left - noise) * probs + gamma * noise * fresh).to(x.dtype)

"""Ancestral sampling in two stages.

Shapes: B batch, L tokens, S states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.processes.base import PROCESSES
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.joint import JointPrecision, draw_joint
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("ancestral")
class AncestralSampler(WalkSampler):
    """Draws clean tokens x from the prediction, then z_s from the posterior q(z_s | z_t, x).

    The two draws are separate, so a small step never multiplies a rare token's probability below the resolution of a
    random number. The last step ends at s = 0, where the posterior returns x. Guidance, then temperature and top-p,
    shape the first draw (arXiv 2603.20155, sections 2 and A.2). `posterior: plugged` is the sampler of traditional
    uniform diffusion, z_s ~ q(z_s | z_t, probabilities of x). For the masked process both are the same.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(spaces=frozenset({"discrete", "continuous"}), follows_clock=True)

    class Config(WalkConfig):
        type: Literal["ancestral"] = "ancestral"
        posterior: Literal["drawn", "plugged"] = Field(
            "drawn", description="draw x first, or put its probabilities into the posterior (models trained on it)"
        )
        precision: Literal["two_stage"] | JointPrecision = Field(
            "two_stage",
            description="two draws, or one from the row of all outcomes in float64, in float32 with safe noise, or in "
            "float32 as is common, which starves rare symbols",
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            process = PROCESSES.get(recipe.process.type).cls
            if process.space != "discrete":
                for key, usual in (("posterior", "drawn"), ("precision", "two_stage")):
                    if getattr(self, key) != usual:
                        yield key, f"the {recipe.process.type} process has no posterior of ids; set {key} to {usual}"
            elif self.precision != "two_stage" and not process.carry_over and self.posterior == "drawn":
                yield "precision", "a row of outcomes given drawn tokens is never formed; set posterior to plugged"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        process, c = walk.denoiser.process, self.config
        prediction = walk.predict(x, step)
        if c.precision != "two_stage" or (c.posterior == "plugged" and not process.carry_over):
            precision: JointPrecision = "joint_fp64" if c.precision == "two_stage" else c.precision
            now, then = walk.times(x, step.t, step.s)
            return draw_joint(walk.discrete, prediction.output, x, now, then, walk.generator, precision, last=step.last)
        return walk.take(prediction, x, step)

"""Distillation of a teacher's trajectories under shared noise.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fewstep.core.recipe_view import RecipeView
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.matching.times import draw_times, typical_steps
from fewstep.objectives.parts.trajectories import (
    Groups,
    Turns,
    check_trajectories,
    follow_trajectories,
    places_in_turns,
)
from fewstep.objectives.parts.weighting import WeightingConfig
from fewstep.predictions.base import Prediction


@OBJECTIVES.register("shared_noise")
class SharedNoise(Objective):
    """The student predicts in one evaluation what its teacher says in several turns, by the noise that both share.

    From z_t the teacher decides the masked tokens group by group, with the student's own noise at the logits
    (`noise_input: stable`). The student learns the teacher's prediction of each token at its turn, by cross entropy. It
    sees the noise that decided the earlier groups, so what it learns of is how tokens depend on each other. `dmmd` has
    the same as its `warmup`.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher"),
        "student": RoleSpec(starts_from="teacher", adapters=True),
    }

    needs_logit_noise = True

    class Config(WeightingConfig):
        type: Literal["shared_noise"] = "shared_noise"
        groups: Groups = Field(
            4, description="turns of the teacher; [rows, columns] of an image; they divide the sample"
        )
        k: int = Field(8, ge=1, description="sampling steps that the student is for, which draw t as in `dmmd`")
        times: Literal["uniform", "grid"] = Field("uniform", description="distribution of t, as in `dmmd`")
        min_time: float = Field(1e-3, ge=0, lt=1, description="smallest time drawn")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from check_trajectories("groups", self.groups, recipe)

    config: Config
    _turns: Turns

    def usual_steps(self) -> int | None:
        return typical_steps(self.config.times, self.config.k)

    def setup(self, ctx: StepContext) -> None:
        self._turns = places_in_turns(ctx.roles["student"], self.config.groups)

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c = self.config
        t, _, end = draw_times(c.times, batch.size, c.k, c.min_time, ctx.sample_time_of_blocks)

        def teacher(z: Tensor, time: Tensor) -> Prediction:
            return ctx.denoiser("teacher")(z, time, cond=batch.cond, generator=ctx.generators["noise"])

        return follow_trajectories(c, batch, ctx, t, end, self._turns, teacher)

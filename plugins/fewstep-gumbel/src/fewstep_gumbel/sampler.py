"""Sampling with the same noise at every step.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.core.sizes import too_large
from fewstep.data.base import DATASETS
from fewstep.denoisers.base import NOTHING, Denoiser
from fewstep.objectives.base import OBJECTIVES
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness
from fewstep.samplers.base import SAMPLERS, OnStep, Sampler, SamplerTraits, Samples
from fewstep.samplers.inner import InnerConfig, inner_sampler
from fewstep_gumbel.condition import with_noise
from fewstep_gumbel.network import GumbelDenoiser
from fewstep_gumbel.noise import gumbel


@SAMPLERS.register("held_noise")
class HeldNoise(Sampler):
    """Draws Gumbel noise once for each sample, and lets an `inner` sampler ask the student with it at every step.

    So the tokens that are shown and the noise of those that are masked belong together, as in training. `noise: fresh`
    leaves it to the network to draw anew at each evaluation.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True, exact=False)

    class Config(InnerConfig):
        type: Literal["held_noise"] = "held_noise"
        inner: Annotated[ComponentConfig, From("samplers", leaf=True)] = Field(
            "ancestral", validate_default=True, description="sampler of the steps; shared settings stand outside it"
        )
        noise: Literal["held", "fresh"] = Field("held", description="one draw for a sample, or one for each step")
        noise_temperature: float = Field(
            1.0, gt=0, description="factor of held noise; below 1 it says less about which token it is"
        )
        max_gigabytes: float = Field(1.0, gt=0, description="limit on the noise of a batch, 4 B L V bytes")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            role = OBJECTIVES.get(recipe.objective.type).cls.roles.get("student")
            if role is None or not issubclass(role.network, GumbelDenoiser):
                yield "type", f"students of '{recipe.objective.type}' see no Gumbel noise; those of 'gumbel' do"
            if self.noise == "fresh" and self.noise_temperature != 1:
                yield "noise_temperature", "fresh noise is the network's own; remove this key, or set noise to held"
            spec = DATASETS.get(recipe.data.type).cls.outline(recipe.data)
            if spec is not None and (
                reason := self.too_large(recipe.evaluate.batch_size, spec.length, spec.vocab_size)
            ):
                yield "max_gigabytes", f"{reason} in evaluation; lower evaluate.batch_size, or raise this limit"

        def too_large(self, count: int, length: int, vocab_size: int) -> str | None:
            """Why noise of this size is refused, if it is."""
            return too_large(count, length, vocab_size, self.max_gigabytes, label="samples of noise")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.inner = inner_sampler(self.config, self.opener)

    def sample(
        self,
        denoiser: Denoiser,
        count: int,
        *,
        steps: int,
        generator: Randomness,
        cond: Condition = NOTHING,
        on_step: OnStep | None = None,
    ) -> Samples:
        c, shape = self.config, (count, denoiser.length, denoiser.process.vocab_size)
        if reason := c.too_large(*shape):
            raise UserError(f"sampler: {reason}; draw fewer samples at once, or raise sampler.max_gigabytes")
        if c.noise == "held":
            cond = with_noise(cond, c.noise_temperature * gumbel(shape, generator, device=denoiser.device))
        return self.inner.sample(denoiser, count, steps=steps, generator=generator, cond=cond, on_step=on_step)

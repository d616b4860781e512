"""Settings and construction of samplers that let another sampler draw parts of a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, field_validator

from fewstep.core.component import ComponentConfig
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import Opener
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.walk import WalkConfig, WalkSampler

_SHARED = tuple(name for name in WalkConfig.model_fields if name != "type")
"""Names of the settings that all samplers share."""


class InnerConfig(WalkConfig):
    """Settings of a sampler whose blocks an `inner` one draws; those that all samplers share stand outside `inner`."""

    inner: Annotated[ComponentConfig, From("samplers", leaf=True)] = Field(
        "ancestral", validate_default=True, description="sampler of each block; shared settings stand outside it"
    )

    @field_validator("inner")
    @classmethod
    def _draws_blocks(cls, inner: ComponentConfig) -> ComponentConfig:
        sampler = SAMPLERS.get(inner.type).cls
        unfit = sampler.traits.gives_context or sampler.traits.only_steps or isinstance(inner, InnerConfig)
        if not issubclass(sampler, WalkSampler) or unfit:
            raise ValueError(f"'{inner.type}' cannot draw a block of a larger sample; confidence can, say")
        usual = WalkConfig(type=inner.type)
        for name in _SHARED:
            if getattr(inner, name) != getattr(usual, name):
                raise ValueError(f"set {name} beside inner, not in it: it holds for every block")
        return inner

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        yield from super().check_recipe(recipe)
        merged = self.inner.model_copy(update={"grid": self.grid})
        yield from (problem for problem in merged.check_recipe(recipe) if problem[0] == "grid")


def inner_sampler(config: InnerConfig, opener: Opener | None) -> WalkSampler:
    """The inner sampler with the settings that all samplers share."""
    shared = {name: getattr(config, name) for name in _SHARED}
    inner = SAMPLERS.build(config.inner.model_copy(update=shared), opener=opener)
    assert isinstance(inner, WalkSampler)
    return inner

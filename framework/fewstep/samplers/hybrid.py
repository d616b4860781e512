"""A student's few steps from noise, then a teacher's last steps (Di4C's hybrid sampler)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import Ref
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.hybrid import HybridDenoiser
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


class CloserSection(Strict):
    """The network of the last steps."""

    run: Annotated[str, Ref("run")] = Field(
        description="run folder or exported file of the network of the last steps, usually the teacher"
    )
    steps: int = Field(1, ge=0, description="number of last steps that it takes, out of all steps")


@SAMPLERS.register("hybrid")
class HybridSampler(WalkSampler):
    """Ancestral sampling in which a second network takes the last steps (arXiv 2410.08709, section 5.1).

    A student of few steps draws the coarse structure; its teacher, which errs less in short steps near the data, ends
    the sample. Steps of both count as evaluations. Both networks must know the same data, labels and process.
    """

    traits = SamplerTraits(spaces=frozenset({"discrete", "continuous"}), follows_clock=False)

    class Config(WalkConfig):
        type: Literal["hybrid"] = "hybrid"
        closer: CloserSection | None = Field(None, description="network of the last steps; without it, ancestral")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            if self.closer is None:
                yield "closer", "name the network of the last steps, `closer: {run: RUN, steps: 1}`"
            elif self.classifier is not None:
                yield "classifier", "a classifier guides one network; leave the classifier or the closer out"

    config: Config

    def guide(self, denoiser: Denoiser, dataset: Dataset) -> Denoiser:
        section: CloserSection | None = self.config.closer
        if section is None:
            return super().guide(denoiser, dataset)
        closer = self.network("closer.run", denoiser, dataset)
        if not isinstance(closer, Denoiser):
            raise UserError(f"closer.run: '{section.run}' draws no samples: {closer.refusal}")
        if closer.has_clock:
            raise UserError(f"closer.run: '{section.run}' has a clock of its own, which this sampler does not follow")
        if closer.conditioned_on_labels != denoiser.conditioned_on_labels:
            raise UserError(f"closer.run: only one of '{section.run}' and this run is conditioned on labels")
        return HybridDenoiser(denoiser, closer)

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        section, denoiser = self.config.closer, walk.denoiser
        if section is not None:
            if not isinstance(denoiser, HybridDenoiser):
                raise ValueError("this sampler names a second network: wrap the denoiser by `guide`")
            denoiser.use_closer = step.count - step.index <= section.steps
        return walk.take(walk.predict(x, step), x, step)

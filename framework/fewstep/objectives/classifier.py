"""Training of classifiers of noised tokens, which guide samplers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from fewstep.backbones.base import BACKBONES
from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS
from fewstep.denoisers.classifier import LabelClassifier
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext


@OBJECTIVES.register("classifier")
class Classifier(Objective):
    """Cross entropy of the label given noised tokens, -log p(y | z_t), t ~ U(0, 1): trains classifiers for guidance.

    Its optimum is the p(y | z_t) that classifier-based guidance multiplies predictions by (arXiv 2412.10193). The
    student is the recipe's backbone, with a head that scores classes instead of tokens.
    """

    roles: ClassVar = {"student": RoleSpec(network=LabelClassifier)}
    per_token = False

    class Config(ComponentConfig):
        type: Literal["classifier"] = "classifier"
        antithetic: bool = Field(True, description="spread the times of a batch evenly over [0, 1]")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not DATASETS.get(recipe.data.type).cls.labelled:
                yield "type", f"data '{recipe.data.type}' have no labels to learn"
            if recipe.label_input is not None:
                yield "type", "a classifier must not be conditioned on the label that it predicts; remove label_input"
            if BACKBONES.get(recipe.backbone.type).cls.uses_context:
                yield "type", "a classifier reads whole samples; use a backbone without blocks"
            if recipe.evaluate.metrics:
                yield "type", "a classifier draws no samples to score; set evaluate.metrics to []"

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        student, labels = ctx.roles["student"], batch.cond.labels
        assert isinstance(student, LabelClassifier)
        assert labels is not None
        t = ctx.sample_time(batch.size, antithetic=self.config.antithetic)
        log_p = student.log_probs(ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t, t)
        accuracy = (log_p.argmax(1) == labels).float().mean()
        return LossOutput(-log_p.gather(1, labels[:, None]).mean(), {"accuracy": accuracy})

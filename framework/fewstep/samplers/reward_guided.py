"""Ancestral sampling guided by a reward (DiDi-Instruct's sampler).

Shapes: B batch, L tokens, V vocabulary, M candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import Ref
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.denoisers.classifier_guidance import ClassifierGuidedPrediction, first_order_changes
from fewstep.denoisers.reward import LogRatio, Reward, RewardedDenoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.draws import draw_at
from fewstep.runtime.streams import uniform
from fewstep.samplers.base import SAMPLERS, SamplerTraits
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


class RewardSection(Strict):
    """A trained reward."""

    run: Annotated[str, Ref("run", role="discriminator")] = Field(
        description="run folder of an objective with a discriminator (`didi`), trained on the same data"
    )


@SAMPLERS.register("reward_guided")
class RewardGuidedSampler(WalkSampler):
    """Tilts early predictions along the reward, and picks late states by it (arXiv 2509.25035, RGAS).

    In the first `tilted` share of the steps the log-probability of a symbol grows by `strength` times the gain of the
    reward by that symbol, to first order and at most `clip`. In the other steps `candidates` states z_s are drawn from
    one prediction, and one is kept with a probability proportional to exp(reward). If the reward is log q_T(z) / q_S(z)
    of a student S that draws one token a step, many candidates draw from T, as importance samples. The reward takes a
    forward and a backward pass, or `candidates` passes, per step; NFE does not count them. The sampler is not `exact`,
    since its distribution differs from the denoiser's.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(masks_only=True, exact=False)

    class Config(WalkConfig):
        type: Literal["reward_guided"] = "reward_guided"
        reward: RewardSection | None = Field(None, description="source of the reward; without it, ancestral")
        tilted: float = Field(0.5, ge=0, le=1, description="share of the steps that tilt; the others pick")
        strength: float = Field(1.0, ge=0, description="factor of the tilt; the paper has 30 to 40 and clips gradients")
        clip: float = Field(5.0, gt=0, description="largest change of a log-probability by a tilt")
        candidates: int = Field(4, ge=1, description="states that a picking step chooses from; the paper has 4")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            if self.reward is None:
                yield "reward", "name the run whose discriminator judges, `reward: {run: RUN}`"
            if self.classifier is not None:
                yield "classifier", "a reward guides already; leave the classifier out"

    config: Config

    def guide(self, denoiser: Denoiser, dataset: Dataset) -> Denoiser:
        section: RewardSection | None = self.config.reward
        if section is None:
            return super().guide(denoiser, dataset)
        discriminator = self.network("reward.run", denoiser, dataset)
        if not isinstance(discriminator, NetworkClassifier):
            raise UserError(f"reward.run: the discriminator of '{section.run}' scores no samples")
        return RewardedDenoiser(denoiser, LogRatio(discriminator))

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        denoiser, prediction = walk.denoiser, walk.predict(x, step)
        if self.config.reward is None:
            return walk.take(prediction, x, step)
        if not isinstance(denoiser, RewardedDenoiser):
            raise ValueError("this sampler names a reward: wrap the denoiser by `guide`")
        if step.index < round(self.config.tilted * step.count):
            return walk.take(self._tilted(prediction, denoiser.reward, walk, x, step), x, step)
        states = torch.stack([walk.with_prompt(walk.take(prediction, x, step)) for _ in range(self.config.candidates)])
        (then,) = walk.times(x, step.s)
        scores = torch.stack([denoiser.reward.score(z, then.float(), walk.cond) for z in states], 1)  # [B, M]
        index = draw_at(scores.double().log_softmax(1), uniform((len(x),), walk.generator, device=x.device))
        return states[index, torch.arange(len(x), device=x.device)]

    def _tilted(self, prediction: Prediction, reward: Reward, walk: Walk, x: Tensor, step: Step) -> Prediction:
        """The prediction, tilted by the reward's gain for each symbol."""
        (now,) = walk.times(x, step.t)
        gains = first_order_changes(
            lambda rows: reward.score(rows, now.float(), walk.cond), x, walk.denoiser.process.num_states
        )
        tilt = (self.config.strength * gains[..., : prediction.vocab_size]).clamp(-self.config.clip, self.config.clip)
        by_token, always = tilt.flatten(0, 1), torch.ones(len(x), device=x.device)
        return ClassifierGuidedPrediction(prediction, lambda tokens: by_token[tokens], always)

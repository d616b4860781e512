"""The walk from noise to data that samplers share: given tokens, shaping of predictions, count of evaluations.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig, Strict
from fewstep.core.errors import UserError
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import Ref
from fewstep.data.base import DATASETS, Dataset
from fewstep.denoisers.base import NOTHING, Denoiser
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.denoisers.classifier_guidance import ClassifierGuidedDenoiser
from fewstep.denoisers.guidance import guided
from fewstep.grids.base import GRIDS
from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.condition import Condition
from fewstep.predictions.draws import refused_at_end
from fewstep.predictions.shaping import row_maps
from fewstep.processes.base import PROCESSES, DiscreteProcess, discrete
from fewstep.processes.masked import MaskedProcess
from fewstep.runtime.streams import Randomness, selected
from fewstep.samplers.base import SAMPLERS, OnStep, Sampler, Samples, StepState


class ClassifierSection(Strict):
    """A classifier that guides samples to their class."""

    run: Annotated[str, Ref("run")] = Field(
        description="run folder or exported file of objective `classifier`, trained on the same data"
    )
    weight: float = Field(1.0, ge=0, description="exponent of the classifier's probability; 0 switches it off")
    approximate: bool = Field(
        True, description="to first order in the tokens, or with an evaluation of the classifier for each symbol"
    )


class WalkConfig(ComponentConfig):
    """Settings of every sampler that walks."""

    temperature: float = Field(1.0, gt=0, description="below 1 sharpens every draw of a clean token")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest symbols that hold this mass")
    shaped: Literal["output", "leave_one_out"] = Field(
        "output",
        description="rows on which temperature, top-p and the greedy tail act: what the network predicts, or each "
        "token given the others of z_t (uniform process)",
    )
    guidance: float = Field(
        1.0, ge=0, description="weight of classifier-free guidance by labels; other than 1 or 0 it doubles the NFE"
    )
    classifier: ClassifierSection | None = Field(
        None, description="classifier that guides a network without label input; masks only; null for none"
    )
    greedy_tail: int | None = Field(
        None,
        ge=0,
        description="number of last steps that take the likeliest symbol instead of a draw; null: the process's own",
    )
    grid: Annotated[ComponentConfig, From("grids")] = Field(
        "linear", validate_default=True, description="times of the steps"
    )

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        if self.guidance != 1 and recipe.label_input is None:
            yield "guidance", "guidance is by labels; add `label_input: {}`"
        if self.shaped == "leave_one_out" and PROCESSES.get(recipe.process.type).cls.space != "discrete":
            yield "shaped", f"the {recipe.process.type} process has no evidence of ids; set shaped to output"
        if self.classifier is not None:
            yield from (("classifier", reason) for reason in _unfit_for_classifiers(self.type, recipe))


@dataclass(frozen=True)
class Step:
    """Step `index` of `count`, from time t to time s."""

    index: int
    count: int
    t: float
    s: float

    @property
    def last(self) -> bool:
        return self.index == self.count - 1


@dataclass(frozen=True)
class Walk:
    """One batch from noise to data: the denoiser, its conditions, the source of random numbers, and `memory`.

    `memory` holds the state that a sampler carries from step to step for each sample (tensors [B, ...]). `evaluations`
    is the number of steps that each sample takes part in, where a sampler knows it beforehand.
    """

    denoiser: Denoiser
    config: WalkConfig
    cond: Condition
    generator: Randomness
    memory: dict[str, Tensor] = field(default_factory=dict)
    evaluations: tuple[int, ...] | None = None

    @property
    def discrete(self) -> DiscreteProcess:
        """The process of samplers that need states to be ids.

        Raises:
            ValueError: it is continuous.
        """
        return discrete(self.denoiser.process)

    @property
    def masked(self) -> MaskedProcess:
        """The process of samplers that fill in masks (`masks_only`).

        Raises:
            ValueError: the process has no masks.
        """
        process = self.denoiser.process
        if not isinstance(process, MaskedProcess):
            raise ValueError(f"this sampler fills in masks, and the {process.config.type} process has none")
        return process

    def start(self, count: int, length: int) -> Tensor:
        """Noise, except for given tokens: a state of the process at t = 1."""
        process, device = self.denoiser.process, self.denoiser.device
        return self.hold(process.prior((count, length), device=device, generator=self.generator), 1.0)

    def hold(self, x: Tensor, t: float) -> Tensor:
        """The state at time t with the given tokens in their places."""
        prompt = self.cond.prompt
        if prompt is None:
            return x
        (now,) = self.times(x, t)
        return self.denoiser.process.hold(x, prompt, self.at_tokens(now), generator=self.generator)

    def with_prompt(self, ids: Tensor) -> Tensor:
        """Tokens [B, L] with the given ones in their places."""
        prompt = self.cond.prompt
        return ids if prompt is None else torch.where(prompt >= 0, prompt, ids)

    def to_ids(self, x: Tensor) -> Tensor:
        """A state as tokens (LongTensor [B, L]), the given ones in their places."""
        return self.with_prompt(self.denoiser.process.to_ids(x))

    def free(self, x: Tensor) -> Tensor:
        """Mask of the tokens that are not given (BoolTensor [B, L])."""
        prompt = self.cond.prompt
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if prompt is None else prompt < 0

    def masks(self, x: Tensor) -> Tensor:
        """Mask of the tokens to fill in (BoolTensor [B, L]); places whose given token is a mask do not count."""
        return self.denoiser.process.to_predict(x) & self.free(x)

    def select(self, rows: Tensor) -> Walk:
        """The walk of the samples in `rows` (LongTensor [n], or BoolTensor [B]), drawing only from their streams."""
        generator = selected(self.generator, rows)
        memory = {name: values[rows] for name, values in self.memory.items()}
        return replace(self, cond=self.cond.select(rows), generator=generator, memory=memory, evaluations=None)

    def times(self, x: Tensor, *times: float) -> list[Tensor]:
        """Each time for every sample, float64 [B]."""
        return [torch.full((x.shape[0],), time, device=x.device, dtype=torch.float64) for time in times]

    def at_tokens(self, t: Tensor) -> Tensor:
        """Times t [B]; as [B, L] with the given tokens at 0 for a denoiser that takes a time for each token."""
        prompt = self.cond.prompt
        if prompt is None or not self.denoiser.takes_token_times:
            return t
        return torch.where(prompt >= 0, 0.0, t[:, None])

    def predict(self, x: Tensor, step: Step) -> Prediction:
        """The denoiser's prediction from t, guided, sharpened, and in the tail reduced to the likeliest symbol."""
        now, then = self.times(x, step.t, step.s)
        prediction = self.unshaped(x, now, then)
        if self.config.shaped == "leave_one_out":
            rows = self.discrete.leave_one_out(prediction, x, now)
            prediction = self.discrete.from_leave_one_out(rows, x, now)
        for row_map in self.shaping(step):
            prediction = prediction.shaped(row_map)
        return prediction

    def take(self, prediction: Prediction, x: Tensor, step: Step) -> Tensor:
        """The process's own step: for ids the ancestral draw z_s ~ q(z_s | z_t, x) with x ~ prediction.

        In the last step x itself (LongTensor [B, L]).
        """
        if step.last:
            return prediction.sample(generator=self.generator)
        now, then = self.times(x, step.t, step.s)
        return self.denoiser.process.step_back(x, prediction, now, then, generator=self.generator)

    def unshaped(self, x: Tensor, t: Tensor, s: Tensor) -> Prediction:
        """The denoiser's prediction from times t to s (float [B]), with guidance and no other shaping."""
        weight, generator = self.config.guidance, self.generator
        t, s = self.at_tokens(t).float(), self.at_tokens(s).float()
        return guided(self.denoiser, x, t, s, weight=weight, cond=self.cond, generator=generator)

    def shaping(self, step: Step) -> tuple[RowMap, ...]:
        """Maps of the rows of a prediction by temperature, top-p and the greedy tail, before a token is drawn."""
        tail = self.config.greedy_tail
        greedy = step.count - step.index <= (self.denoiser.process.greedy_tail if tail is None else tail)
        return row_maps(temperature_=self.config.temperature, top_p_=self.config.top_p, greedy=greedy)


class WalkSampler(Sampler):
    """A sampler that steps through a grid of times from 1 to 0; given tokens stay at every step."""

    Config: ClassVar[type[WalkConfig]]
    config: WalkConfig

    def guide(self, denoiser: Denoiser, dataset: Dataset) -> Denoiser:
        section: ClassifierSection | None = self.config.classifier
        if section is None:
            return denoiser
        classifier = self.network("classifier.run", denoiser, dataset)
        if not isinstance(classifier, NetworkClassifier):
            raise UserError(f"classifier.run: '{section.run}' is no classifier; train one with objective classifier")
        return ClassifierGuidedDenoiser(denoiser, classifier, weight=section.weight, approximate=section.approximate)

    @abstractmethod
    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        """z_s from z_t, both states of the process; the last step leaves no noise and ends in tokens [B, L]."""

    @torch.no_grad()
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
        if self.config.classifier is not None and not isinstance(denoiser, ClassifierGuidedDenoiser):
            raise ValueError("this sampler names a classifier: wrap the denoiser by `guide`")
        self.check_clock(denoiser)
        before = denoiser.evaluated, denoiser.computed
        walk = Walk(denoiser, self.config, cond, generator)
        with refused_at_end():
            x = self.run(walk, self.start(walk, count, denoiser.length), steps, on_step)
        return Samples.counted(x, denoiser, before)

    def start(self, walk: Walk, count: int, length: int) -> Tensor:
        """The first state of the samples: noise, except for given tokens."""
        return walk.start(count, length)

    def run(self, walk: Walk, x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
        """Clean tokens (LongTensor [B, L]) from noise, a state of the process."""
        for step in self.steps(steps):
            x = self.step(walk, x, step)
            x = walk.with_prompt(x) if step.last else walk.hold(x, step.s)
            if on_step is not None:
                on_step(StepState(step.index, step.t, step.s, x if step.last else walk.to_ids(x)))
        return x

    def steps(self, count: int) -> Iterator[Step]:
        """The steps of the grid."""
        times = GRIDS.build(self.config.grid).times(count)
        for index in range(count):
            yield Step(index, count, times[index], times[index + 1])


def _unfit_for_classifiers(sampler: str, recipe: RecipeView) -> Iterator[str]:
    """Reasons why a classifier cannot guide this sampler on a recipe's model."""
    if not PROCESSES.get(recipe.process.type).cls.carry_over:
        yield f"classifiers guide processes with masks, and the {recipe.process.type} process has none"
    if SAMPLERS.get(sampler).cls.traits.gives_context:
        yield "classifiers read whole samples, and this sampler goes block by block"
    if not DATASETS.get(recipe.data.type).cls.labelled:
        yield f"data '{recipe.data.type}' have no classes to guide to"

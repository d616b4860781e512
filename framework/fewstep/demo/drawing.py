"""One model's answer on the demo page: samples with their cost, and how they came about.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.core.errors import FewstepError
from fewstep.core.plugins import trusting_plugins
from fewstep.data.text.text import TextDataset
from fewstep.recipe import with_sampler
from fewstep.runs.build import usual_steps
from fewstep.runs.models import TrainedModel
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.animation import Frame
from fewstep.sampling.job import Job, job_of
from fewstep.sampling.request import SampleRequest
from fewstep.sampling.templates import BLANK, FREE, lines_as_templates, text_as_tokens

MAX_SAMPLES, MAX_STEPS = 64, 1024
"""Limits of one answer: the page may be open to strangers (`--host`, `--share`)."""
Keep = Literal["nothing", "first half", "upper half", "left half"]
"""The part of samples that is held fixed while the remainder is drawn anew."""


@dataclass(frozen=True)
class Settings:
    """What the page asks of a model; None or an empty text leaves a setting to the model.

    `prompt` begins every text, and `infill` is a text with a blank for each character to draw. `kept` are samples of
    which the part `keep` is held fixed, LongTensor [N, L].
    """

    count: int = 16
    steps: int | None = None
    seed: int = 0
    sampler: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    label: str | None = None
    prompt: str = ""
    infill: str = ""
    keep: Keep = "nothing"
    kept: Tensor | None = None


@dataclass(frozen=True)
class Answer:
    """Samples: the job that drew them, their tokens (LongTensor [N, L]), evaluations a sample, seconds, and frames."""

    job: Job
    tokens: Tensor
    nfe: float
    seconds: float
    frames: list[Frame]


def answer(model: TrainedModel, settings: Settings, *, trust_plugins: bool = False) -> Answer:
    """Draw samples as the page asks.

    Raises:
        UserError: a setting does not fit the model.
        RecipeError: the sampler, or a setting of it, does not fit.
    """
    count = min(max(1, settings.count), MAX_SAMPLES)
    request = SampleRequest(
        count=count,
        steps=settings.steps and min(settings.steps, MAX_STEPS),
        seed=settings.seed,
        sampler=settings.sampler,
        temperature=settings.temperature,
        top_p=settings.top_p,
        label=settings.label if model.denoiser.conditioned_on_labels else None,
    )
    with trusting_plugins(trust_plugins):
        job = job_of(model, request, _templates(model, settings, count))
        start = time.perf_counter()
        samples, frames = job.record(range(count))
        seconds = time.perf_counter() - start
    return Answer(job, samples.x.cpu(), samples.nfe, seconds, frames)


def own_steps(model: TrainedModel) -> int:
    """Steps that a model begins with on the page: those of its training, or the most that its recipe evaluates."""
    return usual_steps(model.recipe)


def fitting_samplers(model: TrainedModel) -> list[str]:
    """Names of the samplers that draw from a model without further settings, its own first."""
    own = model.recipe.sampler.type
    return [own, *(entry.name for entry in SAMPLERS.entries() if entry.name != own and _fits(model, entry.name))]


def keepable_parts(model: TrainedModel) -> list[Keep]:
    """Parts of samples that can be held fixed, other than by text."""
    if isinstance(model.dataset, TextDataset):
        return []
    return ["nothing", "upper half", "left half"] if model.dataset.spec.grid else ["nothing", "first half"]


def takes_blanks(model: TrainedModel) -> bool:
    """Whether texts with blanks can be filled in."""
    return isinstance(model.dataset, TextDataset) and model.dataset.tokenizer.fixed_pieces


def _fits(model: TrainedModel, name: str) -> bool:
    try:
        with_sampler(model.recipe, name, steps=[own_steps(model)])
    except FewstepError:
        return False
    return True


def _templates(model: TrainedModel, settings: Settings, count: int) -> Tensor | None:
    """Tokens to hold fixed, LongTensor [M, L] with -1 for those that are drawn; None if all are drawn."""
    if settings.infill:
        return lines_as_templates([settings.infill], BLANK, "infill", model.dataset)
    if settings.prompt:
        return text_as_tokens(settings.prompt, "prompt", model.dataset)[None]
    if settings.keep == "nothing" or settings.kept is None:
        return None
    rows = settings.kept[:count]
    return torch.where(_mask(settings.keep, model), rows, FREE)


def _mask(keep: Keep, model: TrainedModel) -> Tensor:
    """Places that are held fixed, BoolTensor [L]."""
    spec = model.dataset.spec
    height, width, channels = spec.grid or (spec.length, 1, 1)
    mask = torch.zeros(height, width, channels, dtype=torch.bool)
    if keep == "left half":
        mask[:, : width // 2] = True
    else:
        mask[: height // 2] = True
    return mask.flatten()

"""Monitor of a training: samples from the same noise at regular steps, alarms of a collapse, and the best look.

Shapes: N samples, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.data.base import Dataset, Pictures
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.network import evaluating, uncounted
from fewstep.recipe.models import TrainSection, WatchSection
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import Sampler
from fewstep.sampling.labels import condition_on, labels_like_data
from fewstep.training.alarm import ConfidenceAlarm
from fewstep.training.ema import Ema
from fewstep.training.judge import DRAWS, Judge
from fewstep.training.shards import rest

_TEACHER_SAMPLES = 16
"""Samples of a look at a teacher: two rows of a sheet."""
_TEACHER_SHARE = 0.02
"""Limit on what looks at a teacher cost, as a share of its training; its walks are long."""


@dataclass(frozen=True)
class Look:
    """Result of one look: `samples` [N, L], and their diversity as a share of the data's.

    `score` is the metric's mean over held-out draws, None without `watch.early_best`.
    """

    samples: Tensor
    diversity: float
    collapsed: bool
    score: float | None = None


@dataclass
class Best:
    """The averaged weights of the best look so far, as this rank holds them."""

    step: int
    score: float
    weights: dict[str, Tensor]


class Watch:
    """Draws samples with the averaged weights at equal intervals of a training, always from the same noise.

    It has its own random streams. The result of a training therefore does not depend on it.

    Args:
        section: settings.
        steps: sampling steps.
        total: optimiser steps of the training.
        judge: scores each look, whose best average is then kept; None to keep none.
        distils: whether diversity is compared with the data's, and logged.
    """

    def __init__(
        self,
        section: WatchSection,
        *,
        dataset: Dataset,
        sampler: Sampler,
        steps: int,
        total: int,
        seed: int,
        judge: Judge | None = None,
        distils: bool = True,
    ) -> None:
        self.section, self.sampler, self.steps, self.seed, self.judge = section, sampler, steps, seed, judge
        self.distils = distils
        self.best: Best | None = None
        self._alarm = ConfidenceAlarm(section.entropy, section.log_ratio)
        self._unheard = False
        self.due = {round(total * i / section.times) for i in range(1, section.times + 1)}
        self._dataset = dataset
        self._expected = 1.0
        if distils:
            rows = dataset.train[: max(section.samples, 2048)].long()
            self._expected = disagreement(rows, dataset.spec.vocab_size)

    @torch.no_grad()
    def look(self, student: Denoiser, ema: Ema, own: Mapping[str, nn.Parameter], step: int) -> Look:
        """Draw samples as they would be drawn from the finished student, and keep its average if it is the best.

        Args:
            own: the student's parameters, as this rank holds them.
            step: optimiser steps so far.
        """
        count = self.section.samples
        streams = SampleStreams(self.seed, range(count), purpose="watch", device=student.device)
        denoiser = self.sampler.guide(student, self._dataset)
        cond = condition_on(labels_like_data(denoiser, self._dataset, count, self.seed), student.device)
        with uncounted(student), evaluating(student), with_weights(student, own, ema.weights):
            samples = self.sampler.sample(denoiser, count, steps=self.steps, generator=streams, cond=cond).x
            score = None if self.judge is None else sum(self.judge.scores(student)) / DRAWS
        share = disagreement(samples, self._dataset.spec.vocab_size) / max(self._expected, 1e-12)
        self._unheard = True
        if score is not None:
            self._keep(step, score, ema)
        return Look(samples.cpu(), share, self.distils and share < self.section.alarm, score)

    def hear(self, values: Mapping[str, float]) -> str | None:
        """A clause on a collapse that the numbers of a log line show, if it is the first line since a look."""
        if not self._unheard:
            return None
        self._unheard = False
        return self._alarm.look(values)

    def _keep(self, step: int, score: float, ema: Ema) -> None:
        assert self.judge is not None
        if math.isnan(score):
            return
        if self.best is None or self.judge.sign * (score - self.best.score) < 0:
            self.best = Best(step, score, {name: weight.clone() for name, weight in ema.weights.items()})


def shows_pictures(dataset: Dataset) -> bool:
    """Whether samples of the data can be drawn."""
    return any(isinstance(view, Pictures) for view in dataset.views().values())


def section_of_teacher(section: WatchSection, train: TrainSection, steps: int) -> WatchSection:
    """The looks at a training without a teacher: few samples, and no more looks than cost 2 % of the training.

    A step of a training costs about three evaluations of each sample.

    Args:
        steps: sampling steps of a look; 0 for no looks.
    """
    samples = min(section.samples, _TEACHER_SAMPLES)
    budget = int(_TEACHER_SHARE * 3 * train.steps * train.batch_size) // (samples * steps) if steps else 0
    return section.model_copy(update={"samples": samples, "times": min(section.times, budget)})


@contextmanager
def with_weights(network: nn.Module, own: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which the network, whose parameters this rank holds as `own`, has other weights."""
    raw = {name: p.detach().clone() for name, p in own.items()}
    _assign(own, weights)
    try:
        yield
    finally:
        rest([network])
        _assign(own, raw)


def disagreement(samples: Tensor, vocab_size: int) -> float:
    """Probability that two samples disagree at a position, averaged over positions; samples [N, L].

    0 if all samples are equal; an unbiased estimate from all pairs.
    """
    count = samples.shape[0]
    tallies = torch.zeros(samples.shape[1], vocab_size, dtype=torch.float64, device=samples.device)
    tallies.scatter_add_(1, samples.T, torch.ones_like(samples.T, dtype=torch.float64))
    equal = (tallies * (tallies - 1)).sum(1) / (count * (count - 1))
    return float(1 - equal.mean())


def _assign(own: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    for name, parameter in own.items():
        parameter.data.copy_(weights[name])

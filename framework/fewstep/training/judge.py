"""Scores of a network's samples during a training: by one metric, always from the same held-out noise.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import FewstepError, OperationError
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.network import evaluating, uncounted
from fewstep.evaluation.score import score
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.reference import ReferenceMetric
from fewstep.runs.models import build_component
from fewstep.runtime.ranks import Ranks
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import Sampler
from fewstep.sampling.labels import condition_on, labels_like_data

DRAWS = 4
"""Independent draws that are scored one by one. A student that is as good as its teacher is worse in all four once in
sixteen trainings."""
FEWEST = 64
"""Samples of a draw below which a score says too little."""
_SHARE = 0.02
"""Share of a training's evaluations that a comparison at its end may take."""


@dataclass(frozen=True)
class Judge:
    """Draws and scores samples of any network of the training's data.

    Args:
        config: the metric.
        steps: sampling steps.
        samples: number of samples of each of the `DRAWS` draws.
        purpose: other purposes have other noise.
        batch_size: samples drawn at once.
        ranks: processes that share the training. All of them draw, since sharded networks need that; the first scores.
    """

    config: ComponentConfig
    dataset: Dataset
    sampler: Sampler
    steps: int
    samples: int
    seed: int
    purpose: str
    batch_size: int
    ranks: Ranks

    @property
    def value(self) -> str:
        """Name of the value that is compared, the first of the metric that has a better direction."""
        return _value(_class(self.config))

    @property
    def sign(self) -> int:
        """1 if lower values are better, -1 if higher ones are."""
        return 1 if _class(self.config).directions[self.value] == "lower" else -1

    @torch.no_grad()
    def scores(self, network: Denoiser) -> list[float]:
        """The metric's value of each draw.

        Raises:
            FewstepError: the sampler cannot draw from this network, or the metric cannot score its samples.
        """
        denoiser = self.sampler.guide(network, self.dataset)
        labels = labels_like_data(denoiser, self.dataset, DRAWS * self.samples, self.seed)
        with uncounted(network), evaluating(network):
            samples = torch.cat([self._draw(denoiser, numbers, labels) for numbers in self._batches()])
        shared = json.loads(self.ranks.of_first(self._scored(samples, labels) if self.ranks.first else ""))
        if "error" in shared:
            raise OperationError(shared["error"])
        values: list[float] = shared["values"]
        return values

    def _batches(self) -> list[range]:
        """Numbers of the samples of all draws, drawn together."""
        numbers = range(DRAWS * self.samples)
        return [numbers[i : i + self.batch_size] for i in range(0, len(numbers), self.batch_size)]

    def _draw(self, denoiser: Denoiser, numbers: range, labels: Tensor | None) -> Tensor:
        streams = SampleStreams(self.seed, numbers, purpose=self.purpose, device=denoiser.device)
        cond = condition_on(None if labels is None else labels[numbers.start : numbers.stop], denoiser.device)
        return self.sampler.sample(denoiser, len(numbers), steps=self.steps, generator=streams, cond=cond).x.cpu()

    def _scored(self, samples: Tensor, labels: Tensor | None) -> str:
        """Values or an error as JSON, so that all ranks hear of it."""
        of_draws = [None] * DRAWS if labels is None else labels.chunk(DRAWS)
        try:
            pairs = zip(samples.chunk(DRAWS), of_draws, strict=True)
            values = [score(x, self.dataset, [self.config], labels=y)[self.value] for x, y in pairs]
        except FewstepError as error:
            return json.dumps({"error": str(error)})
        return json.dumps({"values": values})


def usable(configs: Sequence[ComponentConfig], dataset: Dataset) -> ComponentConfig | None:
    """The first metric of samples that says here, without another model, which are better; None if there is none."""
    for config in configs:
        cls = _class(config)
        neutral = all(direction == "info" for direction in cls.directions.values())
        if neutral or cls.of_models or issubclass(cls, ReferenceMetric):
            continue
        assert isinstance(config, MetricConfig)
        if config.refuses(ToScore(type(dataset), here=True)) is None:
            return config
    return None


def affordable(samples: int, steps: int, updates: int, batch_size: int) -> int:
    """Samples a draw for a comparison of two networks; 0 where that would take too large a share of the training.

    Args:
        samples: number of samples that is asked for.
        steps: sampling steps.
        updates: optimiser steps of the training.
        batch_size: samples of each.
    """
    count = min(samples, int(_SHARE * updates * batch_size) // (2 * DRAWS * steps))
    return count if count >= min(samples, FEWEST) else 0


def check_metric(config: ComponentConfig, dataset: Dataset) -> None:
    """Fail before the training if a metric lacks a package or a file.

    Raises:
        UserError: it does.
    """
    build_component(METRICS, config, dataset=dataset)


def compared(judge: Judge, student: Denoiser, teacher: Denoiser) -> tuple[str, bool]:
    """A sentence on student and teacher at the student's steps, and whether the student is worse in every draw."""
    try:
        ours, theirs = judge.scores(student), judge.scores(teacher)
    except FewstepError as error:
        return f"student and teacher were not compared at {judge.steps} NFE: {error}", False
    worse = all(judge.sign * (a - b) > 0 for a, b in zip(ours, theirs, strict=True))
    ours_mean, theirs_mean = sum(ours) / DRAWS, sum(theirs) / DRAWS
    figures = (
        f"at {judge.steps} NFE {judge.value} is {ours_mean:.4g} for the student and {theirs_mean:.4g} for its teacher "
        f"({DRAWS} x {judge.samples} samples, the same noise for both)"
    )
    if not worse:
        return figures, False
    return f"the student is worse than its teacher: {figures}; train it longer, or set watch.early_best", True


def _class(config: ComponentConfig) -> type[Metric]:
    return METRICS.get(config.type).cls


def _value(cls: type[Metric]) -> str:
    return next(name for name, direction in cls.directions.items() if direction != "info")

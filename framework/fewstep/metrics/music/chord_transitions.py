"""Frequencies of chord changes, compared with the training data."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.music.chords import chord_changes, needs_music
from fewstep.runtime.seeding import generator_for


@METRICS.register("chord_transitions")
class ChordTransitions(Metric):
    """Total-variation distance between the frequencies of chord changes in the samples and in the training data.

    A chord is the set of pitch classes that sound in one slot. A change is a pair (set, next set) of two successive
    slots of a sample whose sets differ. Pairs that are transpositions of each other count as one kind, since pieces
    stand in all keys. With p and q the shares of each kind among all changes of the samples and of the training data,
    `chord_tv` is sum |p - q| / 2, and 1 if samples never change. `chord_tv_held_out` is the score of the same number of
    windows of held-out music (all of them, if there are fewer), since both values depend on the number of samples.
    `chord_changes` is the share of successive slots that change, `chord_changes_data` that of the training data; the
    distance does not see this share.
    """

    directions: ClassVar = {
        "chord_tv": "lower",
        "chord_tv_held_out": "info",
        "chord_changes": "info",
        "chord_changes_data": "info",
    }
    words: ClassVar = {"chord_tv": "distance to the data (chord changes)"}

    class Config(MetricConfig):
        type: Literal["chord_transitions"] = "chord_transitions"

        def refuses(self, to_score: ToScore) -> str | None:
            return needs_music(to_score.data)

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.reference = chord_changes(dataset.train[:], dataset)
        self.batches: list[Tensor] = []
        self.samples = 0

    def update(self, samples: Tensor) -> None:
        self.batches.append(chord_changes(samples, self.dataset))
        self.samples += len(samples)

    def compute(self) -> dict[str, float]:
        changes, held_out = torch.cat(self.batches), self.dataset.held_out
        assert held_out is not None
        order = torch.randperm(len(held_out), generator=generator_for(0, "chord_transitions"))[: self.samples]
        return {
            "chord_tv": total_variation(changes, self.reference),
            "chord_tv_held_out": total_variation(chord_changes(held_out[order], self.dataset), self.reference),
            "chord_changes": self._share(changes, self.samples),
            "chord_changes_data": self._share(self.reference, len(self.dataset)),
        }

    def _share(self, changes: Tensor, samples: int) -> float:
        slots = self.dataset.spec.length // self.dataset.voices  # type: ignore[attr-defined]
        return len(changes) / (samples * (slots - 1))


def total_variation(a: Tensor, b: Tensor) -> float:
    """Distance of the frequencies of values in two lists of whole numbers; 1 if one list is empty, 0 if both are."""
    if not len(a) or not len(b):
        return float(len(a) != len(b))
    kinds, index = torch.unique(torch.cat([a, b]), return_inverse=True)
    shares = [torch.bincount(part, minlength=len(kinds)).double() / len(part) for part in index.split([len(a), len(b)])]
    return float((shares[0] - shares[1]).abs().sum() / 2)

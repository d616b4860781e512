"""Share of the samples' chords that occur in the training data."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.metrics.base import METRICS, Metric, MetricConfig, ToScore
from fewstep.metrics.music.chords import needs_music, slots


@METRICS.register("chord_share")
class ChordShare(Metric):
    """Share of slots whose chord, the exact pitches of all voices, occurs somewhere in the training data.

    Voices drawn independently make chords that nobody wrote. `chord_share_held_out` is the value of held-out music.
    Below it chords are wrong; far above it they are copies of the training data.
    """

    directions: ClassVar = {"chord_share": "higher", "chord_share_held_out": "info"}
    words: ClassVar = {"chord_share": "share of chords that occur in the data"}

    class Config(MetricConfig):
        type: Literal["chord_share"] = "chord_share"

        def refuses(self, to_score: ToScore) -> str | None:
            return needs_music(to_score.data)

    config: Config

    def __init__(self, config: Config, *, dataset: Dataset) -> None:
        super().__init__(config, dataset=dataset)
        self.known = torch.unique(self._chords(dataset.train[:]))
        self.matches = self.count = 0

    def update(self, samples: Tensor) -> None:
        chords = self._chords(samples)
        self.matches += int(torch.isin(chords, self.known).sum())
        self.count += chords.numel()

    def compute(self) -> dict[str, float]:
        assert self.dataset.held_out is not None
        held_out = torch.isin(self._chords(self.dataset.held_out[:]), self.known)
        return {"chord_share": self.matches / self.count, "chord_share_held_out": float(held_out.double().mean())}

    def _chords(self, samples: Tensor) -> Tensor:
        """One number for each chord, LongTensor [slots of all samples]."""
        voices = slots(samples, self.dataset).flatten(0, 1).unbind(-1)
        chords = torch.zeros_like(voices[0])
        for voice in voices:
            chords = chords * self.dataset.spec.vocab_size + voice
        return chords

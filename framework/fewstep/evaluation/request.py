"""What an evaluation is asked for. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EvaluationRequest:
    """Conditions of an evaluation; None leaves a setting to the recipe of each model.

    Args:
        steps: numbers of sampling steps.
        samples: samples for each number of steps.
        seed: of the samples.
        sampler: YAML of a sampler that replaces the recipe's.
        metrics: names with commas, or a YAML list of names and settings.
        weights: averaged weights, or those of the last step.
        device: "auto", "cpu" or "cuda".
        batch_size: samples drawn at once, without effect on their values.
        track: record new values with all trackers of a run, also with those that send them elsewhere.
    """

    steps: tuple[int, ...] | None = None
    samples: int | None = None
    seed: int = 0
    sampler: str | None = None
    metrics: str | None = None
    weights: Literal["ema", "raw"] | None = None
    device: str = "auto"
    batch_size: int | None = None
    track: bool = False

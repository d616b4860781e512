"""Sampling from denoisers, batch by batch.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.denoisers.base import Denoiser
from fewstep.runtime.progress import Progress
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import OnStep, Sampler, Samples
from fewstep.sampling.labels import condition_on


def draw_batch(
    sampler: Sampler,
    denoiser: Denoiser,
    numbers: range,
    *,
    steps: int,
    seed: int,
    labels: Tensor | None = None,
    templates: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Samples:
    """Draw one batch: the samples of a seed with these numbers.

    Args:
        labels: classes of all samples (LongTensor [N]), if the denoiser is conditioned on them.
        templates: fixed tokens of all samples (LongTensor [N, L]), -1 where a token is drawn.
    """
    batch = slice(numbers.start, numbers.stop)
    labels, templates = (None if tensor is None else tensor[batch] for tensor in (labels, templates))
    cond = condition_on(labels, denoiser.device, templates)
    streams = SampleStreams(seed, numbers, device=denoiser.device)
    return sampler.sample(denoiser, len(numbers), steps=steps, generator=streams, cond=cond, on_step=on_step)


@dataclass(frozen=True)
class Drawn:
    """Tokens (LongTensor [count, L], on the CPU), and network evaluations and passes a sample (`Samples`).

    Both are None for real samples.
    """

    tokens: Tensor
    nfe: int | float | None = None
    passes: int | float | None = None


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    count: int,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    labels: Tensor | None = None,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> Drawn:
    """Draw `count` samples in batches; the tokens do not depend on the size of batches.

    Args:
        labels: classes of the samples (LongTensor [count]), if the denoiser is conditioned on them.
        precision: "bf16" runs the network under autocast.
    """
    parts: list[Tensor] = []
    evaluations, passes = 0.0, 0.0
    for first in range(0, count, batch_size):
        numbers = range(first, min(first + batch_size, count))
        with torch.autocast(denoiser.device.type, torch.bfloat16, enabled=precision == "bf16"):
            samples = draw_batch(sampler, denoiser, numbers, steps=steps, seed=seed, labels=labels)
        parts.append(samples.x.cpu())
        evaluations += samples.nfe * len(numbers)
        passes += samples.passes * len(numbers)
        if progress is not None:
            progress(numbers.stop, count)
    return Drawn(torch.cat(parts), average(evaluations, count), average(passes, count))


def average(total: float, count: int) -> int | float:
    """Mean of what `count` samples took together, such as network evaluations."""
    mean = round(total / count, 6)
    return int(mean) if mean.is_integer() else mean

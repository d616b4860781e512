"""Sampling from denoisers, batch by batch.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

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
    given: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Samples:
    """Draw the samples of a seed with these numbers, at once.

    Args:
        labels: classes of all samples (LongTensor [N]), if the denoiser is told them.
        given: tokens of all samples that are not drawn (LongTensor [N, L]), -1 where they are.
    """
    here = slice(numbers.start, numbers.stop)
    labels, given = (None if tensor is None else tensor[here] for tensor in (labels, given))
    cond = condition_on(labels, denoiser.device, given)
    streams = SampleStreams(seed, numbers)
    return sampler.sample(denoiser, len(numbers), steps=steps, generator=streams, cond=cond, on_step=on_step)


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
) -> tuple[Tensor, int | float]:
    """Draw `count` samples in batches, of the classes `labels` (LongTensor [count]) if the denoiser is told them.

    Args:
        precision: "bf16" runs the network under autocast.

    Returns:
        Tokens (LongTensor [count, L], on the CPU), which do not depend on the size of batches, and the network
        evaluations that a sample took on average.
    """
    parts: list[Tensor] = []
    evaluations = 0.0
    for first in range(0, count, batch_size):
        numbers = range(first, min(first + batch_size, count))
        with torch.autocast(denoiser.device.type, torch.bfloat16, enabled=precision == "bf16"):
            samples = draw_batch(sampler, denoiser, numbers, steps=steps, seed=seed, labels=labels)
        parts.append(samples.x.cpu())
        evaluations += samples.nfe * len(numbers)
        if progress is not None:
            progress(numbers.stop, count)
    return torch.cat(parts), average(evaluations, count)


def average(evaluations: float, count: int) -> int | float:
    """Network evaluations that each of `count` samples took on average."""
    nfe = round(evaluations / count, 6)
    return int(nfe) if nfe.is_integer() else nfe

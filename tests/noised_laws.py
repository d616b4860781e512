"""Laws of noised sequences, enumerated, and walks that start in the middle: what samplers are checked on.

Shapes: B batch, L tokens, V vocabulary, S states.
"""

from __future__ import annotations

import itertools

import torch
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import NOTHING, Denoiser
from fewstep.processes.base import DiscreteProcess
from fewstep.runtime.streams import Randomness
from fewstep.samplers.walk import Step, Walk, WalkSampler
from fewstep.schedules.base import NoiseSchedule


def level(schedule: NoiseSchedule, t: float) -> float:
    """alpha_t."""
    return float(schedule.alpha(torch.tensor(t, dtype=torch.float64)))


def kernel(process: DiscreteProcess, keep: float) -> Tensor:
    """q(z_t | z_s) with alpha_{t|s} = keep, float64 [S (z_s), S (z_t)]; its first V rows are q(z_t | x) for alpha_t."""
    size = process.num_states
    noise = torch.full((size,), 1 / size, dtype=torch.float64)
    if process.carry_over:
        noise = torch.eye(size, dtype=torch.float64)[-1]
    return keep * torch.eye(size, dtype=torch.float64) + (1 - keep) * noise


def law_at(process: DiscreteProcess, law: Tensor, t: float) -> Tensor:
    """Law of z_t, float64 [S] * L, for data of law `law`, float64 [V] * L."""
    token = kernel(process, level(process.schedule, t))[: process.vocab_size]
    for _ in range(law.ndim):
        law = torch.tensordot(law, token, dims=([0], [0]))  # the new axis comes last, so after L turns all are in place
    return law


def counts(z: Tensor, size: int) -> Tensor:
    """How often each sequence of states was drawn [size ** L], in the order of `law_at(...).flatten()`."""
    places = size ** torch.arange(z.shape[1] - 1, -1, -1)
    return torch.bincount((z * places).sum(1), minlength=size ** z.shape[1])


def distance(x: Tensor, source: Markov) -> float:
    """Total variation between samples and the law of their source."""
    found = counts(x, source.config.vocab_size).double() / len(x)
    return float((found - source.ngram_probs(x.shape[1]).flatten()).abs().sum() / 2)


def noised(process: DiscreteProcess, x: Tensor, t: float, generator: Generator) -> Tensor:
    """z_t of clean samples x."""
    return process.corrupt(x, torch.full((len(x),), t), generator=generator).x_t


def walked(
    sampler: WalkSampler, oracle: Denoiser, z: Tensor, times: list[float], generator: Randomness, tail: int = 1
) -> Tensor:
    """z at the last of `times`, from z at the first; `tail` more steps are left to go, so that none is the last."""
    walk = Walk(oracle, sampler.config, NOTHING, generator)
    count = len(times) - 1 + tail
    with torch.no_grad():
        for index, (t, s) in enumerate(itertools.pairwise(times)):
            z = walk.hold(sampler.step(walk, z, Step(index, count, t, s)), s)
    return z

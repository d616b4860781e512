"""Samplers: turn a denoiser into data in a set number of network evaluations (NFE)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from fewstep.component import Component
from fewstep.condition import Condition
from fewstep.denoiser import NOTHING, Denoiser
from fewstep.registry import Registry


@dataclass(frozen=True)
class StepState:
    """What a sampler shows its `on_step` callback: step index (from 0), times t -> s, and tokens z_s [B, L]."""

    index: int
    t: float
    s: float
    x: Tensor


@dataclass(frozen=True)
class Samples:
    """Clean tokens `x` (LongTensor [B, L]) and `nfe`, the network evaluations that each of them took,
    counted by the network itself."""

    x: Tensor
    nfe: int


class Sampler(Component, ABC):
    """Draws samples from a denoiser; all randomness comes from the generator that it is given."""

    spaces: ClassVar[frozenset[str]] = frozenset({"discrete"})
    gives_context: ClassVar[bool] = False
    """Whether it goes block by block and hands finished blocks to the denoiser; others denoise whole samples."""

    @abstractmethod
    def sample(
        self,
        denoiser: Denoiser,
        count: int,
        *,
        steps: int,
        generator: Generator,
        cond: Condition = NOTHING,
        on_step: Callable[[StepState], None] | None = None,
    ) -> Samples:
        """Draw `count` samples in `steps` steps on the denoiser's device, given `cond`."""


SAMPLERS: Registry[Sampler] = Registry("sampler", Sampler, "fewstep.samplers")

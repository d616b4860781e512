"""Forward processes: how clean tokens turn into noise, and one exact step back.

Shapes: B batch, L tokens, V clean vocabulary, S states (V, plus one for [MASK] where there is one).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.fields import From
from fewstep.core.registry import Registry
from fewstep.predictions.base import Prediction
from fewstep.predictions.draws import sample_categorical
from fewstep.runtime.streams import Randomness, uniform
from fewstep.schedules.base import SCHEDULES, NoiseSchedule

TINY = 1e-30
"""Guards the divisions 0 / 0 at t = s = 0 (masked) and t = s = 1 (uniform), where nothing changes."""


@dataclass(frozen=True)
class Corrupted:
    """Noised tokens `x_t` (LongTensor [B, L]) and where noise replaced the data (`noised`, BoolTensor [B, L])."""

    x_t: Tensor
    noised: Tensor


class ProcessConfig(ComponentConfig):
    """Settings of every process."""

    schedule: Annotated[ComponentConfig, From("schedules")] = Field("linear", validate_default=True)


class ForwardProcess(Component, ABC):
    """z_t ~ Cat(alpha_t x + (1 - alpha_t) pi), independently per token (arXiv 2603.20155, section 2).

    Times `t`, `s` are float tensors [B] (or [B, L], for schedules that depend on the position), s <= t.
    """

    Config: ClassVar[type[ProcessConfig]] = ProcessConfig
    config: ProcessConfig
    space: ClassVar[str] = "discrete"
    carry_over: ClassVar[bool]
    """True if a token that is not noise is known to be clean, so that predictions copy it."""

    def __init__(self, config: ProcessConfig, *, vocab_size: int) -> None:
        super().__init__(config)
        self.vocab_size = vocab_size
        self.schedule: NoiseSchedule = SCHEDULES.build(config.schedule)

    @property
    @abstractmethod
    def num_states(self) -> int:
        """S: how many symbols `x_t` can take."""

    @abstractmethod
    def prior(self, shape: tuple[int, int], *, device: torch.device | str, generator: Randomness) -> Tensor:
        """Draw x_1 (LongTensor of `shape`)."""

    @abstractmethod
    def corrupt(self, x0: Tensor, t: Tensor, *, generator: Randomness) -> Corrupted:
        """Draw z_t ~ q(z_t | x). `x0` is ids [B, L], or probabilities [B, L, V] for soft data."""

    def kept(self, t: Tensor, s: Tensor) -> Tensor:
        """alpha_{t|s} = alpha_t / alpha_s: chance that no noise falls on a token between s and t, float64."""
        alpha_t, alpha_s = self.schedule.alpha(t.double()), self.schedule.alpha(s.double())
        return (alpha_t / alpha_s.clamp_min(TINY)).clamp(0, 1)

    def corrupt_further(self, x_s: Tensor, s: Tensor, t: Tensor, *, generator: Randomness) -> Tensor:
        """Draw z_t ~ q(z_t | z_s) = Cat(alpha_{t|s} z_s + (1 - alpha_{t|s}) pi) (LongTensor [B, L])."""
        u = uniform(x_s.shape, generator, device=x_s.device)
        noise = self.prior((x_s.shape[0], x_s.shape[1]), device=x_s.device, generator=generator)
        return torch.where(u < per_token(self.kept(t, s)), x_s, noise)

    @abstractmethod
    def to_predict(self, x_t: Tensor) -> Tensor:
        """Where a prediction is needed (BoolTensor [B, L]): at masks, or everywhere."""

    @abstractmethod
    def posterior_probs(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(z_s | z_t, x) as float64 [B, L, S]; `x0` is ids [B, L] or probabilities [B, L, V]."""

    @abstractmethod
    def posterior_sample(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        """Draw z_s ~ q(z_s | z_t, x) for hard x (`x0` ids [B, L]) without forming a row of probabilities."""

    def step_back(self, x_t: Tensor, prediction: Prediction, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        """Two-stage ancestral step: x ~ Cat(prediction), then z_s ~ q(z_s | z_t, x) (LongTensor [B, L])."""
        return self.posterior_sample(prediction.sample(generator=generator), x_t, t, s, generator=generator)


def per_token(level: Tensor) -> Tensor:
    """Make a level of shape [B] broadcast over tokens ([B, 1]); one of shape [B, L] stays."""
    return level if level.ndim == 2 else level[:, None]


def posterior_rows(process: ForwardProcess, probs: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """q(z_s | z_t, x) of single tokens: probabilities [N, V], ids [N] and times [N] -> float64 [N, S]."""
    return process.posterior_probs(probs[:, None], z[:, None], t, s)[:, 0]


def hard_ids(x0: Tensor, generator: Randomness) -> Tensor:
    """Ids [B, L] as they are; probabilities [B, L, V] as one draw from each row."""
    if not x0.is_floating_point():
        return x0
    return sample_categorical(x0.double().log(), generator)


def soft_rows(x0: Tensor, vocab_size: int) -> Tensor:
    """Ids [B, L] as one-hot rows, probabilities as they are: float64 [B, L, V]."""
    return x0.double() if x0.is_floating_point() else one_hot(x0, vocab_size).double()


PROCESSES: Registry[ForwardProcess] = Registry("process", ForwardProcess, "fewstep.processes")

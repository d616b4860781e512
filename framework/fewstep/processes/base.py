"""Forward processes: noising of clean tokens, and one exact step back.

A process is discrete if its states are ids, and continuous if they are vectors. Shapes: B batch, L tokens, V clean
vocabulary, S states (V, or V + 1 with [MASK]) or numbers of a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.fields import From
from fewstep.core.registry import Registry
from fewstep.predictions.base import Prediction
from fewstep.predictions.draws import sample_categorical
from fewstep.predictions.evidence import LeaveOneOutPrediction, WithoutEvidence
from fewstep.predictions.positions import count_together
from fewstep.runtime.streams import Randomness, uniform
from fewstep.schedules.base import SCHEDULES, NoiseSchedule

TINY = 1e-30
"""Guards the divisions 0 / 0 at t = s = 0 (masked) and t = s = 1 (uniform), where nothing changes."""


@dataclass(frozen=True)
class Corrupted:
    """A noised state and the mask of its noised tokens.

    Args:
        x_t: ids [B, L], or float [B, L, S].
        noised: BoolTensor [B, L]; for ids true where noise replaced the token.
    """

    x_t: Tensor
    noised: Tensor


class ProcessConfig(ComponentConfig):
    """Settings of every process: the `schedule`; its alpha(t) is the share of the signal at time t."""

    schedule: Annotated[ComponentConfig, From("schedules")] = Field("linear", validate_default=True)


class Process(Component, ABC):
    """Noising of a sample, independently for each token: all that samplers, denoisers and most losses need.

    A state is ids [B, L] (`space` "discrete", see `DiscreteProcess`) or vectors [B, L, S] ("continuous"). Times `t`
    and `s` are float tensors [B], or [B, L] with a time for each position; s <= t.

    Args:
        vocab_size: V.
    """

    Config: ClassVar[type[ProcessConfig]] = ProcessConfig
    config: ProcessConfig
    space: ClassVar[str]
    carry_over: ClassVar[bool] = False
    """True if a token that is not noise is certainly clean, so that predictions copy it."""
    greedy_tail: ClassVar[int] = 0
    """Number of last steps that take the likeliest symbol, unless the sampler sets its own `greedy_tail`."""

    def __init__(self, config: ProcessConfig, *, vocab_size: int) -> None:
        super().__init__(config)
        self.vocab_size = vocab_size
        self.schedule: NoiseSchedule = SCHEDULES.build(config.schedule)

    @property
    @abstractmethod
    def num_states(self) -> int:
        """S: number of symbols of `x_t`, or of numbers in one of its vectors; backbones embed this many."""

    @abstractmethod
    def prior(self, shape: tuple[int, int], *, device: torch.device | str, generator: Randomness) -> Tensor:
        """Draw x_1 for `shape` [B, L]: ids [B, L], or vectors [B, L, S]."""

    @abstractmethod
    def corrupt(self, x0: Tensor, t: Tensor, *, generator: Randomness) -> Corrupted:
        """Draw z_t ~ q(z_t | x). `x0` is ids [B, L], or probabilities [B, L, V] for soft data."""

    @abstractmethod
    def step_back(self, x_t: Tensor, prediction: Prediction, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        """Step from the state at t to a state at s, by a prediction of the clean tokens.

        A prediction may have a clock. A subclass therefore begins with `t, s = prediction.on_clock(t, s)`.
        """

    @abstractmethod
    def to_predict(self, x_t: Tensor) -> Tensor:
        """Mask of the tokens that need a prediction (BoolTensor [B, L]): the masked ones, or all."""

    @abstractmethod
    def to_ids(self, x_t: Tensor) -> Tensor:
        """A state as ids [B, L], for display, callbacks and the known tokens of predictions."""

    @abstractmethod
    def hold(self, x_t: Tensor, prompt: Tensor, t: Tensor, *, generator: Randomness) -> Tensor:
        """The state at t with the tokens of a prompt in it.

        Args:
            prompt: LongTensor [B, L], -1 at free tokens, where the state does not change.
        """

    @abstractmethod
    def evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        """q(z_i | x_i = c) for every symbol c, up to a positive factor for each token: float64 [B, L, V].

        It gives every source with a known distribution an exact denoiser of the process (`denoisers.exact`).
        """


class StepMasks(NamedTuple):
    """The masks that a step reveals, and those that it leaves: BoolTensor [B, L] each."""

    revealed: Tensor
    left: Tensor


class DiscreteProcess(Process):
    """States are ids: z_t ~ Cat(alpha_t x + (1 - alpha_t) pi), independently per token (arXiv 2603.20155, sec. 2)."""

    space: ClassVar[str] = "discrete"

    def to_ids(self, x_t: Tensor) -> Tensor:
        """Ids unchanged; a relaxed state, rows of probabilities [B, L, S], as its likeliest ids."""
        return x_t.argmax(-1) if x_t.is_floating_point() else x_t

    def hold(self, x_t: Tensor, prompt: Tensor, t: Tensor, *, generator: Randomness) -> Tensor:
        return torch.where(prompt >= 0, prompt, x_t)

    def keep_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """alpha_{t|s} = alpha_t / alpha_s: probability that a token gets no noise between s and t, float64."""
        alpha_t, alpha_s = self.schedule.alpha(t.double()), self.schedule.alpha(s.double())
        return (alpha_t / alpha_s.clamp_min(TINY)).clamp(0, 1)

    def from_leave_one_out(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Prediction:
        """p(x | z_t) of a prediction of p(x_i | z_t without position i): `predictions.evidence`.

        With masks both are the same where tokens are predicted, since a mask says nothing about its token.
        """
        if self.carry_over:
            return prediction
        return LeaveOneOutPrediction(prediction, self._token_evidence, x_t, per_token(t).expand(x_t.shape))

    def leave_one_out(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Prediction:
        """p(x_i | z_t without position i) of a prediction of p(x | z_t); the inverse of `from_leave_one_out`."""
        if self.carry_over or prediction.output is not prediction:
            return prediction.output
        return WithoutEvidence(prediction, self._token_evidence, x_t, per_token(t).expand(x_t.shape))

    def _token_evidence(self, z: Tensor, t: Tensor) -> Tensor:
        return self.evidence(z[:, None], t[:, None])[:, 0]

    def corrupt_further(self, x_s: Tensor, s: Tensor, t: Tensor, *, generator: Randomness) -> Tensor:
        """Draw z_t ~ q(z_t | z_s) = Cat(alpha_{t|s} z_s + (1 - alpha_{t|s}) pi) (LongTensor [B, L])."""
        u = uniform(x_s.shape, generator, device=x_s.device)
        noise = self.prior((x_s.shape[0], x_s.shape[1]), device=x_s.device, generator=generator)
        return torch.where(u < per_token(self.keep_prob(t, s)), x_s, noise)

    @abstractmethod
    def posterior_probs(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """q(z_s | z_t, x) as float64 [B, L, S]; `x0` is ids [B, L] or probabilities [B, L, V]."""

    def keep_masks(self, x: Tensor, left: Tensor) -> Tensor:
        """The state x, of which it is known where its masks are: `left` (BoolTensor [B, L])."""
        return x

    def reveal(self, x: Tensor, x_t: Tensor, masks: StepMasks) -> Tensor:
        """The state after a step from x_t that shows x at the masks that it reveals; ids [B, L]."""
        return self.keep_masks(torch.where(masks.revealed, x, x_t), masks.left)

    @abstractmethod
    def posterior_sample(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        """Draw z_s ~ q(z_s | z_t, x) for hard x (`x0` ids [B, L]) without a row of probabilities."""

    def draw_masks(self, x_t: Tensor, times: Sequence[Tensor], *, generator: Randomness) -> list[StepMasks | None]:
        """Draw the places of a walk from x_t before any network is called, if they do not depend on its tokens.

        `find_masks` then waits once for the walk, and no step does. Steps take their places as `masks`.

        Args:
            times: of x_t and of the states after it, n + 1 tensors [B] or [B, L].

        Returns:
            The places of the n steps; None for a process whose places depend on tokens, which draws nothing here.
        """
        return [None] * (len(times) - 1)

    def step_back(
        self,
        x_t: Tensor,
        prediction: Prediction,
        t: Tensor,
        s: Tensor,
        *,
        generator: Randomness,
        masks: StepMasks | None = None,
    ) -> Tensor:
        """Two-stage ancestral step: x ~ Cat(prediction), then z_s ~ q(z_s | z_t, x) (LongTensor [B, L])."""
        t, s = prediction.on_clock(t, s)
        levels = uniform(prediction.where.shape, generator, device=x_t.device)
        return self.step_at(x_t, prediction, levels, t, s, generator=generator, masks=masks)

    def step_at(
        self,
        x_t: Tensor,
        prediction: Prediction,
        levels: Tensor,
        t: Tensor,
        s: Tensor,
        *,
        generator: Randomness,
        masks: StepMasks | None = None,
    ) -> Tensor:
        """`step_back` with x drawn by given uniform numbers [B, L] (`Prediction.sample_at`)."""
        return self.posterior_sample(prediction.sample_at(levels), x_t, t, s, generator=generator)


def find_masks(process: Process, states: Sequence[Tensor], steps: Sequence[StepMasks | None] = ()) -> None:
    """Find the masks of states [B, L] and of steps, with one wait for all of them (`predictions.positions`)."""
    count_together([*map(process.to_predict, states), *chain.from_iterable(step for step in steps if step)])


def discrete(process: Process) -> DiscreteProcess:
    """The process, checked to be one of ids.

    Raises:
        ValueError: the process is continuous.
    """
    if not isinstance(process, DiscreteProcess):
        raise ValueError(f"this needs a process of ids, and {process.config.type} is {process.space}")
    return process


def per_token(level: Tensor) -> Tensor:
    """A level of shape [B] as [B, 1], which broadcasts over tokens; one of shape [B, L] is returned unchanged."""
    return level if level.ndim == 2 else level[:, None]


def posterior_rows(process: DiscreteProcess, probs: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """q(z_s | z_t, x) of single tokens: probabilities [N, V], ids [N] and times [N] -> float64 [N, S]."""
    return process.posterior_probs(probs[:, None], z[:, None], t, s)[:, 0]


def hard_ids(x0: Tensor, generator: Randomness) -> Tensor:
    """Ids [B, L] unchanged; probabilities [B, L, V] as one draw from each row."""
    if not x0.is_floating_point():
        return x0
    return sample_categorical(x0.double().log(), generator)


def soft_rows(x0: Tensor, vocab_size: int) -> Tensor:
    """Ids [B, L] as one-hot rows, probabilities unchanged: float64 [B, L, V]."""
    return x0.double() if x0.is_floating_point() else one_hot(x0, vocab_size).double()


PROCESSES: Registry[Process] = Registry("process", Process, "fewstep.processes")

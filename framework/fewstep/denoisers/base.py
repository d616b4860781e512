"""`Denoiser`: a backbone, a process and a parameterisation that together predict the clean tokens.

Shapes: B batch, L tokens, S tokens a block, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition, Prefix
from fewstep.processes.base import Process
from fewstep.runtime.streams import Randomness

NOTHING = Condition()


class Denoiser(nn.Module, ABC):
    """Predicts x from z_t, and counts its own evaluations: `nfe` calls, and `evaluated` samples in all of them.

    Masked processes carry over: tokens that are not [MASK] are clean and copied (MDLM's SUBS), unless `cond.everywhere`
    asks a network about all of them. Uniform processes predict every token. `length` is the number of tokens a sample,
    `block_size` that of a block, for denoisers that predict block after block from a context or a prefix, and None for
    all others.
    """

    has_clock: bool = False
    """Whether its predictions bring a clock (`Prediction.clock`), which only samplers that follow one can use."""

    def __init__(self, process: Process, length: int, block_size: int | None = None) -> None:
        super().__init__()
        self.process = process
        self.length = length
        self.block_size = block_size
        self.nfe = 0
        self.evaluated = 0

    @property
    def conditioned_on_labels(self) -> bool:
        """Whether `cond.labels` must be given."""
        return False

    @property
    def conditioned_on_steps(self) -> bool:
        """Whether a prediction depends on the time s that its step leads to."""
        return False

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its tensors live."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        """What `forward` returns, uncounted."""

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        s: Tensor | None = None,
        *,
        cond: Condition = NOTHING,
        generator: Randomness = None,
    ) -> Prediction:
        """Predict clean tokens.

        Args:
            x_t: a state of the process: noised ids [B, L], or vectors [B, L, S] of a continuous one.
            t: times [B] in [0, 1]; [B, L] where blocks have times of their own.
            s: times [B] that the step from t leads to, for denoisers that are told (two-time networks).
            cond: what else the prediction depends on.
            generator: source of the noise input's randomness, for denoisers that have one.
        """
        self._count(x_t)
        return self.predict(x_t, t, s, cond, generator)

    def read(self, prefix: Prefix, block: Tensor) -> Prefix:
        """`prefix` with one clean block [B, S] more; counted where it takes an evaluation of a network."""
        return Prefix(torch.cat((prefix.ids, block), 1))

    def _count(self, tokens: Tensor) -> None:
        self.nfe += 1
        self.evaluated += tokens.shape[0]


class DenoiserAround(Denoiser):
    """Base of denoisers that are another one with something added; told what that one is told, and where it is.

    Evaluations are counted here, not by the one inside.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.process, denoiser.length, denoiser.block_size)
        self.denoiser = denoiser
        self.has_clock = denoiser.has_clock

    @property
    def conditioned_on_labels(self) -> bool:
        return self.denoiser.conditioned_on_labels

    @property
    def conditioned_on_steps(self) -> bool:
        return self.denoiser.conditioned_on_steps

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

"""Supervision: the tokens of a batch that the losses of a step count.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fewstep.core.component import Component
from fewstep.core.registry import Registry
from fewstep.runtime.streams import Randomness


class Supervision(Component, ABC):
    """Draws the tokens that a step supervises; all its networks and losses share them.

    A loss is the mean over those tokens (`StepContext.mean`), so that its size and expected gradient stay the same.
    Inputs of networks are not touched. Draws come from a stream of their own for each sample.
    """

    @abstractmethod
    def mask(self, shape: tuple[int, int], *, device: torch.device, generator: Randomness) -> Tensor:
        """BoolTensor [B, L], true at tokens that count."""


SUPERVISIONS: Registry[Supervision] = Registry("supervision", Supervision, "fewstep.supervision")

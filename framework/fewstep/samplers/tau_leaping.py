"""Tau-leaping on the reverse jump process.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.rates import JumpSampler
from fewstep.samplers.walk import WalkConfig


@SAMPLERS.register("tau_leaping")
class TauLeapingSampler(JumpSampler):
    """Holds the rates of the reverse process constant during a step, in which a token jumps at most once.

    P(it leaves z_t) = 1 - exp(-h R), with h the length of the step and R the total rate out of z_t. The target of a
    jump is drawn in proportion to the rates (arXiv 2205.14987). Symbols have no order, so a second jump of a token in
    the same step is left out. At alpha = 0 the rates of the uniform process are infinite, so the first step draws new
    noise. The last step draws x ~ prediction, which leaves no noise.
    """

    class Config(WalkConfig):
        type: Literal["tau_leaping"] = "tau_leaping"

    config: Config

    @staticmethod
    def chance(expected: Tensor) -> Tensor:
        """1 - exp(-h R)."""
        return -torch.expm1(-expected)

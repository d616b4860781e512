"""Euler steps of the reverse jump process.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.rates import JumpSampler
from fewstep.samplers.walk import WalkConfig


@SAMPLERS.register("euler")
class EulerSampler(JumpSampler):
    """Leaves z_t with the probability that the rates of the reverse process give to first order.

    That is min(1, h R), with h the length of the step and R the total rate out of z_t.
    P(z_s = y) = h R(y) for y != z_t, scaled down if these sum to more than 1 (arXiv 2310.16834, 2205.14987). The
    error falls with h. At alpha = 0 the rates of the uniform process are infinite, so the first step draws new noise.
    The last step draws x ~ prediction, which leaves no noise.
    """

    class Config(WalkConfig):
        type: Literal["euler"] = "euler"

    config: Config

    @staticmethod
    def chance(expected: Tensor) -> Tensor:
        """min(1, h R)."""
        return expected.clamp(max=1)

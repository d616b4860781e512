"""The uniform process as the largest coordinate of a Gaussian one (Duo, arXiv 2506.10892, section 3).

With w = a onehot(x) + s e, e ~ N(0, I), the index of the largest coordinate is x with a probability P(a / s). All other
symbols are equally likely. This is the uniform process at a level alpha(a / s). Shapes: N levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_REACH, _POINTS = 10.0, 1001
"""Range of the integral in standard deviations, and its number of points; the rule's error is far below float64's."""


def induced_alpha(gamma: Tensor, vocab_size: int) -> Tensor:
    """alpha = (V P - 1) / (V - 1) at log noise-to-signal ratios gamma = log(s^2 / a^2), float64 [N].

    P = E[Phi(a / s + z)^(V - 1)] over a standard normal z, in logarithms by the trapezoidal rule. That rule is exact to
    all digits for integrands that fall to 0 at both ends, so no table per vocabulary is needed.
    """
    z = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64, device=gamma.device)
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    mean = torch.exp(-0.5 * gamma.double())
    wins = (density * torch.exp((vocab_size - 1) * torch.special.log_ndtr(mean[:, None] + z))).sum(1)
    return ((vocab_size * wins - 1) / (vocab_size - 1)).clamp(0, 1)

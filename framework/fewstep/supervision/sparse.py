"""Supervision of a random share of the tokens.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.runtime.streams import Randomness, uniform
from fewstep.supervision.base import SUPERVISIONS, Supervision


@SUPERVISIONS.register("sparse")
class SparseSupervision(Supervision):
    """Each token counts with probability `share`, independently of all others (SSD, arXiv 2602.02699).

    The optimum of a loss that is a sum over tokens does not change, only the noise of its gradient. The paper leaves
    out .5 to .98 of the pixels, `share` .5 to .02, to keep a model of few data from copying them.
    """

    class Config(ComponentConfig):
        type: Literal["sparse"] = "sparse"
        share: float = Field(0.1, gt=0, le=1, description="probability that a token counts; 1 - eta of the paper")

    config: Config

    def mask(self, shape: tuple[int, int], *, device: torch.device, generator: Randomness) -> Tensor:
        return uniform(shape, generator, device=device, dtype=torch.float32) < self.config.share

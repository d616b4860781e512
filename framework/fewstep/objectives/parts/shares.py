"""A share of the samples of a batch, chosen by their places, so that it does not depend on how a batch is divided."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.objectives.base import StepContext


def rows_of_share(share: float, count: int, ctx: StepContext) -> Tensor:
    """Rows [n] of the `count` samples of this call of `loss` that belong to a share of the whole batch.

    They are evenly spread over it: of n places in a row, n times the share are chosen, up to one.
    """
    marks = [math.floor(place * share) for place in range(ctx.place, ctx.place + count + 1)]
    rows = [row for row in range(count) if marks[row + 1] > marks[row]]
    return torch.tensor(rows, dtype=torch.long, device=ctx.device)

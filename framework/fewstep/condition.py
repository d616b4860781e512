"""What a prediction may be conditioned on beside the noised tokens.

Objectives and samplers pass it through and need not know what is in it.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Condition:
    """Nothing, or any of the following.

    Args:
        labels: LongTensor [B], the class of each sample, -1 for none.
        context: LongTensor [B, L], clean tokens that a block-autoregressive backbone may look at: those of earlier
            blocks than the one that it predicts.
    """

    labels: Tensor | None = None
    context: Tensor | None = None

    def without_labels(self) -> Condition:
        """The same with no class for any sample."""
        return self if self.labels is None else replace(self, labels=torch.full_like(self.labels, -1))

    def with_labels_dropped(self, share: float, generator: Generator | None) -> Condition:
        """The same with no class for each sample with probability `share`; draws nothing where there are no labels."""
        if self.labels is None or share == 0:
            return self
        drop = torch.rand(self.labels.shape, generator=generator, device=self.labels.device) < share
        return replace(self, labels=self.labels.masked_fill(drop, -1))

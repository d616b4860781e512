"""An optional capability of backbones: several sequences in one row.

Shapes: B batch, L tokens, S input states, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from fewstep.backbones.base import Backbone


class PacksSequences(Backbone):
    """A backbone that can read several sequences in one row, which do not see each other.

    Test for it by `isinstance(backbone, PacksSequences)`; `fewstep.testing.check_packing` checks an implementation.
    """

    @abstractmethod
    def forward(
        self, x_t: Tensor, t: Tensor, *, residual: Tensor | None = None, segments: Sequence[int] | None = None
    ) -> Tensor:
        """Hidden states [B, L, D], as of any backbone.

        Args:
            x_t: ids [B, L], or probabilities over states [B, L, S].
            t: [B]; a packed row may have one time for each of its sequences.
            residual: [R, B, L, D].
            segments: lengths of the sequences packed into the row (B must be 1). Each starts at position 0.

        Raises:
            ValueError: the segments do not fill the row, or a segment is longer than a sample.
        """

"""What a prediction may be conditioned on beside the noised tokens.

Objectives and samplers pass it through and need not know what is in it.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


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

    def split(self, parts: int) -> list[Condition]:
        """The condition of each of `parts` equal shares of the batch."""
        shares: list[dict[str, Tensor]] = [{} for _ in range(parts)]
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                for share, part in zip(shares, value.chunk(parts), strict=True):
                    share[field.name] = part
        return [Condition(**share) for share in shares]

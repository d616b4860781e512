"""What a prediction may be conditioned on beside the noised tokens.

Objectives and samplers pass it through and need not know what is in it.

Shapes: B batch, L tokens, P tokens of a prefix, K heads, Dh head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Prefix:
    """Clean blocks that come before the one that is predicted.

    Args:
        ids: LongTensor [B, P].
        memory: what a network keeps of having read them: for each layer keys and values [B, P, K, Dh].
    """

    ids: Tensor
    memory: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def length(self) -> int:
        """P."""
        return self.ids.shape[1]


@dataclass(frozen=True)
class Condition:
    """Nothing, or any of the following.

    Args:
        labels: LongTensor [B], the class of each sample, -1 for none.
        context: LongTensor [B, L], clean tokens that a block-autoregressive backbone may look at: those of earlier
            blocks than the one that it predicts.
        prefix: in the place of a context, where the noised tokens are one block alone: what comes before it.
        given: LongTensor [B, L], tokens that samplers must not change, and -1 where they are free: a prompt, or the
            known part of what is filled in.
        everywhere: predict all tokens, those too that a masked process would carry over: of a start that is not data.
    """

    labels: Tensor | None = None
    context: Tensor | None = None
    prefix: Prefix | None = None
    given: Tensor | None = None
    everywhere: bool = False

    def select(self, rows: Tensor) -> Condition:
        """The condition of some samples (BoolTensor [B])."""
        labels, context, given = (None if x is None else x[rows] for x in (self.labels, self.context, self.given))
        prefix = self.prefix
        if prefix is not None:
            prefix = Prefix(prefix.ids[rows], tuple((k[rows], v[rows]) for k, v in prefix.memory))
        return replace(self, labels=labels, context=context, prefix=prefix, given=given)

    def split(self, parts: int) -> list[Condition]:
        """The condition of each of `parts` equal shares of the batch; a prefix belongs to sampling and has no share."""
        none = [None] * parts
        labels = none if self.labels is None else self.labels.chunk(parts)
        contexts = none if self.context is None else self.context.chunk(parts)
        shares = zip(labels, contexts, strict=True)
        return [replace(self, labels=label, context=context, prefix=None, given=None) for label, context in shares]

    def repeat(self, times: int) -> Condition:
        """The condition of the batch so many times over, one copy after the other."""
        labels = None if self.labels is None else self.labels.repeat(times)
        context, given = (None if x is None else x.repeat(times, 1) for x in (self.context, self.given))
        return replace(self, labels=labels, context=context, prefix=None, given=given)

    def without_labels(self) -> Condition:
        """The same with no class for any sample."""
        return self if self.labels is None else replace(self, labels=torch.full_like(self.labels, -1))

    def with_labels_dropped(self, share: float, generator: Generator | None) -> Condition:
        """The same with no class for each sample with probability `share`; draws nothing where there are no labels."""
        if self.labels is None or share == 0:
            return self
        drop = torch.rand(self.labels.shape, generator=generator, device=self.labels.device) < share
        return replace(self, labels=self.labels.masked_fill(drop, -1))

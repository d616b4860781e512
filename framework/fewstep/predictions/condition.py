"""Conditions of a prediction beside the noised tokens.

Objectives and samplers pass a `Condition` through without reading it.

Shapes: B batch, L tokens, P tokens of a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewstep.predictions.keys_values import KeyValues
from fewstep.runtime.streams import Randomness, uniform


@dataclass(frozen=True)
class Prefix:
    """Clean blocks before the predicted block.

    Args:
        ids: LongTensor [B, P].
        memory: keys and values of these tokens for each layer of a network.
    """

    ids: Tensor
    memory: tuple[KeyValues, ...] = ()

    @property
    def length(self) -> int:
        """P."""
        return self.ids.shape[1]


@dataclass(frozen=True)
class Condition:
    """Conditions of a batch; by default there are none.

    Args:
        labels: LongTensor [B], class of each sample, -1 for none.
        context: LongTensor [B, L], clean tokens for a block-autoregressive backbone, which reads only the blocks before
            the one that it predicts.
        prefix: clean blocks before the noised tokens, in the place of a context, if these are a single block.
        prompt: LongTensor [B, L], tokens that samplers must not change, -1 where they are free: a prompt, or the known
            part of a template.
        everywhere: predict all tokens, also those that a masked process would carry over; for states that are not data.
    """

    labels: Tensor | None = None
    context: Tensor | None = None
    prefix: Prefix | None = None
    prompt: Tensor | None = None
    everywhere: bool = False

    def select(self, rows: Tensor | slice) -> Condition:
        """The condition of the samples in `rows` (LongTensor [n], BoolTensor [B], or a slice, which copies nothing)."""
        labels, context, prompt = (None if x is None else x[rows] for x in (self.labels, self.context, self.prompt))
        prefix = self.prefix
        if prefix is not None:
            prefix = Prefix(prefix.ids[rows], tuple(layer.select(rows) for layer in prefix.memory))
        return replace(self, labels=labels, context=context, prefix=prefix, prompt=prompt)

    def split(self, parts: int) -> list[Condition]:
        """The condition of each of `parts` equal shares of the batch, without the prefix and prompt of sampling."""
        none = [None] * parts
        labels = none if self.labels is None else self.labels.chunk(parts)
        contexts = none if self.context is None else self.context.chunk(parts)
        shares = zip(labels, contexts, strict=True)
        return [replace(self, labels=label, context=context, prefix=None, prompt=None) for label, context in shares]

    def repeat(self, times: int) -> Condition:
        """The condition of the batch repeated `times` times, one copy after the other."""
        labels = None if self.labels is None else self.labels.repeat(times)
        context, prompt = (None if x is None else x.repeat(times, 1) for x in (self.context, self.prompt))
        return replace(self, labels=labels, context=context, prefix=None, prompt=prompt)

    def without_labels(self) -> Condition:
        """This condition with no class for any sample."""
        return self if self.labels is None else replace(self, labels=torch.full_like(self.labels, -1))

    def with_labels_dropped(self, share: float, generator: Randomness) -> Condition:
        """This condition with each label dropped with probability `share`; without labels nothing is drawn."""
        if self.labels is None or share == 0:
            return self
        drop = uniform(self.labels.shape, generator, device=self.labels.device, dtype=torch.float32) < share
        return replace(self, labels=self.labels.masked_fill(drop, -1))

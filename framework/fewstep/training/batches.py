"""Batches of a training: samples, the random numbers of each, and what their predictions are conditioned on.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fewstep.denoisers.base import Network
from fewstep.objectives.base import Batch, StepContext
from fewstep.predictions.condition import Condition
from fewstep.recipe.models import TrainerSettings
from fewstep.runtime.device import pinned, send
from fewstep.runtime.ranks import Ranks
from fewstep.runtime.seeding import derived_seed
from fewstep.runtime.streams import SampleStreams
from fewstep.training.assemble import Parts
from fewstep.training.loader import Loader
from fewstep.training.order import EpochOrder

_STREAMS = ("time", "noise", "sample")


class Batches:
    """Takes samples in the order of the training; its n-th sample has the same random numbers in whatever batch,
    micro-batch or process it is.

    Conditions have labels if a role reads them, and the clean tokens as context if the roles go block by block.
    """

    def __init__(
        self, parts: Parts, settings: TrainerSettings, roles: Mapping[str, Network], device: torch.device, ranks: Ranks
    ) -> None:
        self.dataset, self.supervision, self.device = parts.dataset, parts.supervision, device
        self.seed, self.size = settings.seed, settings.train.batch_size
        reads_labels = any(network.conditioned_on_labels or network.reads_labels for network in roles.values())
        labels = self.dataset.labels if reads_labels else None
        self._labels = None if labels is None else labels.to(device)
        self._has_context = roles["student"].block_size is not None
        self.loader = self._loader(ranks)

    def _loader(self, ranks: Ranks) -> Loader:
        """Batches from memory, on the device; or read ahead from disk."""
        order = EpochOrder(len(self.dataset), derived_seed(self.seed, "order"))
        train, readers = self.dataset.train, self.dataset.readers
        share = {"rank": ranks.rank, "world": ranks.size}
        if isinstance(train, Tensor):
            resident = train.to(self.device)
            return Loader(order, lambda rows: resident[send(rows, self.device)], self.size, **share)
        # Readers run in threads of their own, so pinning costs the training no time.
        return Loader(order, lambda rows: pinned(train[rows], self.device), self.size, readers=readers, **share)

    def streams(self, numbers: range, batch: range | None = None, part: str = "") -> dict[str, SampleStreams]:
        """Random numbers of training samples for each purpose.

        Args:
            numbers: of the samples, in the order in which the training takes them.
            batch: numbers of all samples of the step.
            part: of the training that draws.
        """
        return {
            name: SampleStreams(self.seed, numbers, purpose=name + part, batch=batch, device=self.device)
            for name in _STREAMS
        }

    def next(self, ctx: StepContext, parts: int) -> Iterator[Batch]:
        """This rank's share of the next batch, in micro-batches; `ctx` draws for the one that was handed out last."""
        start, place = self.loader.position, self.loader.place
        rows, tokens = (send(part, self.device) for part in self.loader.next())
        numbers = range(start, start + self.size)
        for part, x0 in zip(rows.chunk(parts), tokens.chunk(parts), strict=True):
            yield self._batch(ctx, part, x0, numbers, place)
            place += len(part)

    def of_rows(self, ctx: StepContext, rows: Tensor) -> Batch:
        """The training samples `rows`; `ctx` draws for them as in the next step."""
        start = self.loader.position
        x0 = send(self.loader.fetch(rows), self.device)
        return self._batch(ctx, rows, x0, range(start, start + len(rows)), 0)

    def begin_after(self, ctx: StepContext) -> None:
        """Let `ctx` draw for what an objective does between two steps: a single stream, and all tokens count."""
        position = self.loader.position
        ctx.generators, ctx.supervised = self.streams(range(position, position + 1), part="/after"), None

    def _batch(self, ctx: StepContext, rows: Tensor, x0: Tensor, batch: range, place: int) -> Batch:
        """Samples, their random numbers and their condition.

        Args:
            batch: numbers of the samples of the step, of which these are a part that begins at `place`.
        """
        numbers = batch[place : place + len(rows)]
        ctx.generators, ctx.place, ctx.whole = self.streams(numbers, batch), place, len(batch)
        x0 = x0.long()
        if self.dataset.augments:
            streams = SampleStreams(self.seed, numbers, purpose="augment", device=self.device)
            x0 = self.dataset.augment(x0, streams)
        if self.supervision is not None:
            streams = SampleStreams(self.seed, numbers, purpose="supervision", device=self.device)
            shape = (len(numbers), self.dataset.spec.length)
            ctx.supervised = self.supervision.mask(shape, device=self.device, generator=streams)
        labels = None if self._labels is None else self._labels[rows]
        return ctx.as_batch(x0, Condition(labels, x0 if self._has_context else None))

"""A step of each phase of a training, followed with tensors that are only shapes.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from fewstep.core.errors import FewstepError, UserError
from fewstep.objectives.base import Phase, StepContext
from fewstep.planning.ledger import Ledger, largest
from fewstep.planning.outline import Shapes
from fewstep.predictions.base import CHUNK_ELEMENTS
from fewstep.predictions.condition import Condition
from fewstep.predictions.draws import refusals
from fewstep.predictions.positions import expected_share
from fewstep.runtime.precision import Precision
from fewstep.runtime.streams import SampleStreams

_PURPOSES = ("time", "noise", "sample")
_SHARE = 0.5
"""Tokens that are masked on average."""
_CHUNKS = 16
"""Chunks of rows that are followed; a step with more of them would take long to follow, and is like one of fewer."""
_MICRO_BATCHES = 2
"""Micro-batches that are followed: the second one has the gradients of the first beside it, as all further ones."""


@dataclass(frozen=True)
class Settings:
    """How a step is followed.

    Args:
        batch: samples of a micro-batch.
        accumulate: micro-batches of a step.
        precision: of the networks.
        share: tokens that the masked process has masked.
        diagnose: whether the step also computes what the trainer asks for in every tenth round.
    """

    batch: int
    accumulate: int = 1
    precision: Precision = "fp32"
    share: float = _SHARE
    diagnose: bool = False


class Peak(Protocol):
    """What a step of a phase takes."""

    @property
    def operators(self) -> int:
        """Operators of the step that are no views."""

    def peak(self, shares: Mapping[str, float] | None = None) -> dict[str, int]:
        """Bytes by part, as `Ledger.peak`."""


@dataclass(frozen=True)
class SetUp:
    """What an objective computes before the first step.

    Args:
        flops: of all ranks together, as `operators`.
        memory: of one rank.
    """

    flops: float
    operators: float
    memory: Peak


@dataclass(frozen=True)
class Line:
    """A batch that is larger than two that were followed: each stage of the step grows in proportion to the batch.

    Args:
        distance: (batch - smaller) / (larger - smaller).
    """

    smaller: Ledger
    larger: Ledger
    distance: float

    @property
    def operators(self) -> int:
        """Operators of the step."""
        return round(self._at(self.smaller.operators, self.larger.operators))

    def peak(self, shares: Mapping[str, float] | None = None) -> dict[str, int]:
        a, b = self.smaller.peaks(shares), self.larger.peaks(shares)
        return largest(
            {
                stage: {
                    part: max(0.0, self._at(a[stage].get(part, 0.0), b[stage].get(part, 0.0)))
                    for part in a[stage].keys() | b[stage].keys()
                }
                for stage in a.keys() & b.keys()
            }
        )

    def _at(self, smaller: float, larger: float) -> float:
        return smaller + self.distance * (larger - smaller)


def peaks(shapes: Shapes, settings: Settings) -> dict[str, Peak]:
    """The memory of a step of each phase, after `set_up`.

    A loss over a large vocabulary goes through its rows in chunks, all alike: from a few chunks on its memory stays and
    all other memory grows in proportion to the batch. Two batches then say what a larger one takes.

    Raises:
        UserError: see `rehearse`.
    """
    spec = shapes.dataset.spec
    chunks = settings.share * spec.length * spec.vocab_size / CHUNK_ELEMENTS  # of a sample
    larger = max(8, int(_CHUNKS / chunks) // 8 * 8)
    if settings.batch <= 2 * larger:  # as cheap as two smaller ones
        return dict(rehearse(shapes, settings, prepared=True))
    smaller = larger // 2
    both = [rehearse(shapes, replace(settings, batch=batch), prepared=True) for batch in (smaller, larger)]
    distance = (settings.batch - smaller) / (larger - smaller)
    return {name: Line(ledger, both[1][name], distance) for name, ledger in both[0].items()}


def rehearse(shapes: Shapes, settings: Settings, *, prepared: bool = False) -> dict[str, Ledger]:
    """What a step of each phase makes, by name of the phase.

    Args:
        prepared: whether the objective's set-up was followed before.

    Raises:
        UserError: a step of the objective depends on values of tensors, or on files.
    """
    if not prepared:
        set_up(shapes)
    with shapes.mode, _followed(shapes):
        return {phase.name: _step(shapes, phase, settings) for phase in shapes.objective.phases()}


def set_up(shapes: Shapes) -> SetUp:
    """Follow the objective's set-up, after which its steps can be followed.

    Raises:
        UserError: it depends on values of tensors, or on files.
    """
    with shapes.mode, _followed(shapes), ExitStack() as stack:
        ledger = _ledger(shapes, (), stack)
        stack.enter_context(expected_share(_SHARE))
        times = shapes.objective.rehearse(_context(shapes, Settings(1)))
    return SetUp(times * ledger.flops, times * ledger.operators, ledger)


@contextmanager
def _followed(shapes: Shapes) -> Iterator[None]:
    """Within, an error says what cannot be followed."""
    try:
        yield
    except FewstepError:
        raise
    except Exception as error:
        kind, reason = shapes.objective.config.type, " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"objective: a step of '{kind}' cannot be followed by sizes alone ({reason}); plan a recipe with the "
            "same networks and objective denoising, and see the peak that a short training logs"
        ) from error


def _ledger(shapes: Shapes, trained: Collection[str], stack: ExitStack) -> Ledger:
    """A ledger that follows what is computed until the stack closes, with gradients of the roles in `trained`."""
    ledger = Ledger()
    for name, network in shapes.roles.items():
        ledger.known([*network.parameters(), *network.buffers()])
        network.take_gradients(name in trained)
        network.train(name in trained)
        stack.enter_context(_as_activations(network, ledger))
    for context in (ledger, refusals()):
        stack.enter_context(context)
    return ledger


def _step(shapes: Shapes, phase: Phase, settings: Settings) -> Ledger:
    ctx, length = _context(shapes, settings), shapes.dataset.spec.length
    labels, blocks = _labels(shapes, settings.batch), shapes.roles["student"].block_size is not None
    bf16 = settings.precision == "bf16"
    with ExitStack() as stack:
        ledger = _ledger(shapes, phase.train, stack)
        stack.enter_context(expected_share(settings.share))
        for _ in range(min(settings.accumulate, _MICRO_BATCHES)):
            x0 = torch.zeros(settings.batch, length, dtype=torch.long)
            ctx.supervised = _supervised(shapes, settings.batch)
            ctx.batch = ctx.as_batch(x0, Condition(labels, x0 if blocks else None))
            with torch.autocast(ctx.device.type, torch.bfloat16, enabled=bf16):
                loss = shapes.objective.loss(phase, ctx.batch, ctx).loss
            with ledger.during("activations"):
                loss.backward()
            del loss
            ledger.assign(_gradients(shapes), "gradients")
    for network in shapes.roles.values():
        network.zero_grad(set_to_none=True)
    return ledger


def _context(shapes: Shapes, settings: Settings) -> StepContext:
    streams = {name: SampleStreams(0, range(settings.batch), purpose=name) for name in _PURPOSES}
    return StepContext(
        shapes.roles,
        shapes.process,
        streams,
        torch.device("cpu"),
        steps=2,
        end=shapes.dataset.end,
        diagnose=settings.diagnose,
    )


def _supervised(shapes: Shapes, batch: int) -> Tensor | None:
    """Tokens that the losses of a step count."""
    if shapes.supervision is None:
        return None
    streams = SampleStreams(0, range(batch), purpose="supervision")
    shape = (batch, shapes.dataset.spec.length)
    return shapes.supervision.mask(shape, device=torch.device("cpu"), generator=streams)


def _labels(shapes: Shapes, batch: int) -> Tensor | None:
    """Labels of a batch, if a network reads them."""
    if any(network.conditioned_on_labels or network.reads_labels for network in shapes.roles.values()):
        return torch.zeros(batch, dtype=torch.long)
    return None


def _gradients(shapes: Shapes) -> list[Tensor]:
    parameters = (parameter for network in shapes.roles.values() for parameter in network.parameters())
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@contextmanager
def _as_activations(network: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Within, what the network's forward passes make is counted as activations."""
    before: list[str] = []

    def enter(*_: object) -> None:
        before.append(ledger.part)
        ledger.part = "activations"

    def leave(*_: object) -> None:
        ledger.part = before.pop()

    handles = [network.register_forward_pre_hook(enter), network.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""What to say when memory runs out in a training step: what took most of it, and the switch that halves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from fewstep.denoisers.base import Network
from fewstep.denoisers.network import BackboneNetwork
from fewstep.predictions.base import CHUNK_ELEMENTS

_MB = 2**20
_COPIES_IN_CHUNK = 4
"""Float32 numbers for each element of a chunk of rows: logits, log-probabilities, a gradient and a temporary."""


class Part(NamedTuple):
    """A part of the memory of a training: what it is, its bytes, and what to do about it."""

    name: str
    size: float
    switch: str


def networks(roles: Mapping[str, Network], trained: Sequence[str]) -> Part:
    """Weights of all roles; trained ones also have gradients, two moments, and the student an average."""
    copies = {name: 1 + 3 * (name in trained) + (name == "student") for name in roles}
    size = sum(copies[name] * _bytes(network) for name, network in roles.items())
    return Part("networks, gradients and optimisers", size, "halve backbone.depth")


def batch(student: Network, peak: float, size: int, parts: int) -> Part:
    """What a batch adds to the networks: activations, and rows over the vocabulary.

    Args:
        peak: bytes of the whole training, less those of the networks.
        size: samples of a batch.
        parts: micro-batches that it is split into.
    """
    chunk = 4.0 * _COPIES_IN_CHUNK * min(CHUNK_ELEMENTS, size // parts * student.length * student.process.vocab_size)
    name = f"rows over {student.process.vocab_size:,} symbols" if chunk > peak / 2 else "activations of a batch"
    recomputes = not isinstance(student, BackboneNetwork) or getattr(
        student.backbone.config, "activation_checkpointing", True
    )
    if size > parts:
        switch = f"set train.accumulate to {2 * parts}, which halves what is computed at once"
    elif not recomputes:
        switch = "set backbone.activation_checkpointing to true"
    else:
        switch = "halve data.length or backbone.width"
    return Part(name, max(peak, chunk), switch)


def weights(roles: Mapping[str, Network]) -> float:
    """Megabytes of all networks and the student's average, before the first step."""
    return (sum(map(_bytes, roles.values())) + _bytes(roles["student"])) / _MB


def explain(roles: Mapping[str, Network], trained: Sequence[str], peak_megabytes: float, size: int, parts: int) -> str:
    """One clause that names the largest part and the switch that halves it.

    Args:
        roles: networks of the training.
        trained: roles with an optimiser.
        peak_megabytes: most memory that the training has taken, without what the process had before.
        size: samples of a batch.
        parts: micro-batches of a step.
    """
    resident = networks(roles, trained)
    other = batch(roles["student"], max(0.0, peak_megabytes * _MB - resident.size), size, parts)
    largest, second = sorted((resident, other), key=lambda part: -part.size)
    return (
        f"the largest part are the {largest.name} ({largest.size / _MB:,.0f} MB; {second.name}: "
        f"{second.size / _MB:,.0f} MB); {largest.switch}"
    )


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())

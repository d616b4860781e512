"""Memory of a rank under each strategy.

A rank of `ddp` holds everything. A rank of `fsdp` holds a share of all parameters, gradients, averages and moments, and
at any time the gathered parameters of two blocks and of all that is in no block (embedding and head); `hybrid` shares
within a node only. Weights that two networks share are counted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from fewstep.denoisers.base import Network
from fewstep.denoisers.network import BackboneNetwork
from fewstep.planning.outline import Shapes
from fewstep.planning.rehearsal import Peak, SetUp

Strategy = Literal["one GPU", "ddp", "fsdp", "hybrid"]
PARTS = ("weights", "gradients", "optimiser", "ema", "teacher", "auxiliary", "gathered", "activations", "loss")
"""Parts of the memory of a rank, in the order of tables. `auxiliary` are all trained networks but the student."""

_MOMENTS = 2
_BLOCKS_GATHERED = 2
"""One that computes, and the next one, which is fetched meanwhile."""


@dataclass(frozen=True)
class Sharing:
    """How networks are divided: `shards` ranks hold one copy of them, and `ranks` take part in the training."""

    strategy: Strategy
    ranks: int
    shards: int


@dataclass(frozen=True)
class Parallel:
    """Micro-batches of a step, and bytes of a gathered weight over those of a stored one."""

    accumulate: int = 1
    width: float = 1.0


def sharings(gpus: int, node: int) -> list[Sharing]:
    """The strategies that a number of GPUs can have; `hybrid` shares among `node` of them."""
    if gpus == 1:
        return [Sharing("one GPU", 1, 1)]
    both = [Sharing("ddp", gpus, 1), Sharing("fsdp", gpus, gpus)]
    return [*both, Sharing("hybrid", gpus, node)] if gpus > node and gpus % node == 0 else both


def bytes_of(module: nn.Module) -> int:
    """Bytes of the parameters of a module."""
    return sum(parameter.nbytes for parameter in module.parameters())


def trained_bytes(network: Network) -> int:
    """Bytes of the parameters that a training changes: as many are gradients, and each moment."""
    network.take_gradients(True)
    return sum(parameter.nbytes for parameter in network.parameters() if parameter.requires_grad)


def shardable(shapes: Shapes) -> bool:
    """Whether the networks of a training can be sharded: the objective allows it, and no two roles share weights."""
    own = _own_bytes(shapes.roles)
    return shapes.objective.shardable and all(own[name] == bytes_of(role) for name, role in shapes.roles.items())


def footprint(
    shapes: Shapes, peaks: Mapping[str, Peak], setup: SetUp, sharing: Sharing, parallel: Parallel
) -> dict[str, int]:
    """Bytes of each part at the peak of the phase that takes most, or of the objective's set-up if that takes more."""
    roles, specs = shapes.roles, shapes.objective.roles
    trained = [name for name, spec in specs.items() if spec.trained]
    own = _own_bytes(roles)
    resident = {
        "weights": own["student"],
        "ema": shapes.averages * bytes_of(roles["student"]),
        "optimiser": _MOMENTS * sum(trained_bytes(roles[name]) for name in trained),
        "teacher": sum(own[name] for name in roles if name not in trained),
        "auxiliary": sum(own[name] for name in trained if name != "student"),
    }
    parts = {name: value // sharing.shards for name, value in resident.items()}
    # Gradients of several micro-batches are summed before they are scattered.
    share = 1.0 if parallel.accumulate > 1 else 1 / sharing.shards
    phases = [phase.peak({"gradients": share}) for phase in peaks.values()]
    peak = max(phases, key=lambda parts: sum(parts.values()))
    before = setup.memory.peak()
    if sum(before.values()) > sum(peak.values()) + parts["optimiser"]:  # which has no moments yet
        peak, parts["optimiser"] = before, 0
    parts |= {name: peak.get(name, 0) for name in ("gradients", "activations", "loss")}
    parts["weights"] += sum(buffer.nbytes for network in roles.values() for buffer in network.buffers())
    parts["gathered"] = round(_gathered(shapes) * parallel.width) if sharing.shards > 1 else 0
    return {name: parts[name] for name in PARTS}


def _own_bytes(roles: Mapping[str, Network]) -> dict[str, int]:
    """Bytes of the parameters of each role that are no other role's before it."""
    before, sizes = set[int](), dict[str, int]()
    for name, network in roles.items():
        new = {id(parameter): parameter for parameter in network.parameters() if id(parameter) not in before}
        before |= new.keys()
        sizes[name] = sum(parameter.nbytes for parameter in new.values())
    return sizes


def _gathered(shapes: Shapes) -> int:
    """Bytes of whole parameters, and of whole gradients of the student, that a rank has besides its shards."""
    total = largest = 0
    for name, network in shapes.roles.items():
        blocks = [bytes_of(block) for block in _blocks(network)]
        outside = bytes_of(network) - sum(blocks)
        total += 2 * outside if name == "student" else outside
        largest = max([largest, *blocks])
    return total + (_BLOCKS_GATHERED + 1) * largest


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Parts of a network that are gathered one by one."""
    return list(network.backbone.layers()) if isinstance(network, BackboneNetwork) else []

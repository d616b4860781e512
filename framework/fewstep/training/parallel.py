"""Strategies of a training on several ranks: networks are replicated (DDP) or sharded (FSDP2), before it begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from fewstep.backbones.base import Backbone
from fewstep.core.errors import UserError
from fewstep.denoisers.base import Network
from fewstep.recipe.models import ParallelSection, TrainerSettings
from fewstep.runtime.precision import resolve_precision
from fewstep.runtime.ranks import Ranks
from fewstep.training.assemble import Parts
from fewstep.training.exhausted import networks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Strategy = Literal["ddp", "fsdp", "hybrid"]
_FITS = 0.7
"""Share of a GPU's memory that networks, gradients, moments and average may take; the rest is for activations."""


def parallelise(parts: Parts, settings: TrainerSettings, ranks: Ranks, device: torch.device) -> Parts:
    """The parts as the strategy has them: networks on the device, and sharded if it says so.

    Raises:
        UserError: the objective, the networks or the number of ranks do not suit the strategy.
    """
    section = settings.parallel
    strategy = chosen(parts, section, ranks, device)
    if strategy == "ddp":
        return parts
    _check(parts, strategy)
    if section.parameters == "bf16" and resolve_precision(settings.train.precision, device) != "bf16":
        raise UserError(
            "parallel.parameters: is bf16, which a training in fp32 cannot use; set train.precision to bf16"
        )
    mesh = _mesh(section, strategy, ranks, device)
    return replace(parts, roles={name: _sharded(role.to(device), mesh, section) for name, role in parts.roles.items()})


def chosen(parts: Parts, section: ParallelSection, ranks: Ranks, device: torch.device) -> Strategy:
    """The strategy of a section; `auto` shards what does not fit a GPU, if it can be sharded."""
    if not ranks.several:
        return "ddp"
    if section.strategy != "auto":
        return section.strategy
    if device.type != "cuda" or not parts.objective.shardable or _share_weights(parts.roles):
        return "ddp"
    trained = [name for name, role in parts.objective.roles.items() if role.trained]
    size, memory = networks(parts.roles, trained).size, torch.cuda.get_device_properties(device).total_memory
    return "fsdp" if size > _FITS * memory else "ddp"


def copies(section: ParallelSection, ranks: Ranks) -> int:
    """Number of ranks that hold the same shard."""
    return ranks.size // _shards(section, ranks) if section.strategy == "hybrid" and ranks.several else 1


@contextmanager
def summing(roles: Iterable[nn.Module], *, last: bool) -> Iterator[None]:
    """The backward pass of a micro-batch; sharded networks sum their gradients over ranks after the last one alone."""
    for role in roles:
        synchronise = getattr(role, "set_requires_gradient_sync", None)
        if synchronise is not None:
            synchronise(last)
    yield


def _check(parts: Parts, strategy: Strategy) -> None:
    if not parts.objective.shardable:
        name = parts.objective.config.type
        raise UserError(f"parallel.strategy: is {strategy}, and objective '{name}' needs whole networks; set it to ddp")
    if _share_weights(parts.roles):
        raise UserError(
            f"parallel.strategy: is {strategy}, and roles share weights (objective.auxiliary_rank), which cannot be "
            "sharded; set it to ddp"
        )


def _share_weights(roles: Mapping[str, Network]) -> bool:
    every = [id(parameter) for role in roles.values() for parameter in role.parameters()]
    return len(set(every)) < len(every)


def _shards(section: ParallelSection, ranks: Ranks) -> int:
    """Number of shards of each network in the strategy `hybrid`."""
    return section.shards or int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))


def _mesh(section: ParallelSection, strategy: Strategy, ranks: Ranks, device: torch.device) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    if strategy == "fsdp":
        return init_device_mesh(device.type, (ranks.size,))
    shards = _shards(section, ranks)
    if ranks.size % shards:
        raise UserError(
            f"parallel.shards: {ranks.size} ranks cannot be divided into groups of {shards}; set it to a divisor"
        )
    return init_device_mesh(device.type, (ranks.size // shards, shards), mesh_dim_names=("replicate", "shard"))


def _sharded(network: Network, mesh: DeviceMesh, section: ParallelSection) -> Network:
    """Shard a network block by block, in place; all that is outside of blocks is one more group."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # Inputs are not cast: times and ids lose their meaning in bfloat16.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if section.parameters == "bf16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for backbone in [module for module in network.modules() if isinstance(module, Backbone)]:
        for layer in backbone.layers():
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for name in network.evaluated_by:
        register_fsdp_forward_method(network, name)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # shares of a batch are summed, as the trainer weighs them
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other sum
    return network

"""The parameters that a rank holds: those of a network, or of a sharded one (FSDP2) a shard of each.

Optimisers, averages and norms work on what a rank holds, without torch's DTensor in between: the shards are the memory
that FSDP gathers its weights from. States are of whole tensors, so that any number of ranks reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from fewstep.denoisers.base import Network
from fewstep.runtime.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Shards:
    """Parameters of a network, as this rank holds them between two steps.

    Args:
        network: may be sharded, and then is at rest (`rest`).
        ranks: processes that share the training.
        copies: number of ranks that hold the same shard; of a network that is not sharded it is not used.
    """

    def __init__(self, network: Network, ranks: Ranks = ALONE, copies: int = 1) -> None:
        self.network, self.ranks, self.copies = network, ranks, copies
        self._parameters = dict(network.named_parameters())
        self.sharded = any(map(is_sharded, self._parameters.values()))
        self.own = {name: _own(parameter) for name, parameter in self._parameters.items()}

    def take_gradients(self) -> None:
        """Move the gradients of a backward pass to what this rank holds."""
        if not self.sharded:
            return
        for name, parameter in self._parameters.items():
            gradient, parameter.grad = parameter.grad, None
            self.own[name].grad = None if gradient is None else cast("DTensor", gradient).to_local()

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients so that their norm is at most a limit; returns the norm before, of all shards."""
        own = list(self.own.values())
        if not self.sharded:
            return torch.nn.utils.clip_grad_norm_(own, limit)
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        squares = torch.nn.utils.get_total_norm(gradients).double().square()
        self.ranks.sum_([squares])
        norm = (squares / self.copies).sqrt().float()
        torch.nn.utils.clip_grads_with_norm_(own, limit, norm)
        return norm

    def whole(self, name: str, own: Tensor) -> Tensor:
        """The whole of a tensor that is divided as parameter `name` is; in main memory, of the first rank alone."""
        parameter = self._parameters[name]
        if not is_sharded(parameter) or own.dim() == 0:
            return own
        return self._kept(_as_sharded(own, parameter))

    def state_dict(self) -> dict[str, Tensor]:
        """State of the network, of whole tensors."""
        state = self.network.state_dict()
        return {name: self._kept(tensor) if is_sharded(tensor) else tensor for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of the network from whole tensors."""
        if self.sharded:
            ours = self.network.state_dict()
            state = {name: _divided(tensor, ours[name]) if name in ours else tensor for name, tensor in state.items()}
        self.network.load_state_dict(state)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor that is divided as parameter `name` is."""
        parameter = self._parameters[name]
        if not is_sharded(parameter) or whole.dim() == 0:
            return whole
        return cast("DTensor", _divided(whole, parameter)).to_local()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, object]:
        """State of the optimiser over `own`, of whole tensors."""
        state = optimizer.state_dict()
        if self.sharded:
            names = list(self.own)
            state["state"] = {
                number: {key: self.whole(names[number], value) for key, value in values.items()}
                for number, values in state["state"].items()
            }
        return state

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, object]) -> None:
        """Restore what `optimizer_state` returned, on any number of ranks."""
        if self.sharded:
            names, values_of = list(self.own), cast("Mapping[int, Mapping[str, Tensor]]", state["state"])
            parts = {
                number: {key: self.part(names[number], value) for key, value in values.items()}
                for number, values in values_of.items()
            }
            state = {**state, "state": parts}
        optimizer.load_state_dict(dict(state))

    def _kept(self, tensor: Tensor) -> Tensor:
        """A whole tensor that all ranks gather, and the first one keeps."""
        whole = cast("DTensor", tensor.detach()).full_tensor()
        return whole.cpu() if self.ranks.first else whole.new_empty(0)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is divided between ranks."""
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module is imported only where something is sharded


def rest(networks: Iterable[nn.Module]) -> None:
    """Free the gathered weights of sharded networks, so that their parameters are shards again."""
    for network in networks:
        if not hasattr(network, "reshard"):  # nothing in it is sharded; each step comes by here
            continue
        for module in network.modules():
            if callable(reshard := getattr(module, "reshard", None)):
                reshard()


def _own(parameter: nn.Parameter) -> nn.Parameter:
    """What this rank holds of a parameter, in the same memory."""
    if not is_sharded(parameter):
        return parameter
    return nn.Parameter(cast("DTensor", parameter.detach()).to_local(), parameter.requires_grad)


def _as_sharded(own: Tensor, like: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    model = cast("DTensor", like)
    return DTensor.from_local(
        own.detach(), model.device_mesh, model.placements, run_check=False, shape=model.shape, stride=model.stride()
    )


def _divided(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, divided between ranks as `like` is; each rank has the whole one, so nothing is sent."""
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    model = cast("DTensor", like)
    on_device = whole.to(model.device, model.dtype)
    return distribute_tensor(on_device, model.device_mesh, model.placements, src_data_rank=None)

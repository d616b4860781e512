"""A denoiser that differs from another one by matrices of low rank (LoRA, arXiv 2106.09685).

Shapes: D inputs, E outputs of a linear layer, R rank.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.core.errors import UserError
from fewstep.denoisers.base import Blueprint, Network
from fewstep.denoisers.half import linear
from fewstep.denoisers.network import BackboneNetwork, NetworkDenoiser


class LowRankLinear(nn.Linear):
    """A frozen linear layer W x + b, and a trained difference U D x of rank R, which is 0 at first.

    Weight and bias keep the names that they have in a plain layer.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as a linear layer is initialised

    def forward(self, input: Tensor) -> Tensor:
        whole = linear(input, self.weight, self.bias)
        return whole + F.linear(F.linear(input, self.down), self.up)


class LowRankDenoiser(NetworkDenoiser):
    """A denoiser with the weights of the network that it starts from, and trained differences of low rank.

    The objective's setting `auxiliary_rank` is the rank; without one all weights are trained, as in `NetworkDenoiser`.
    With one, the weights themselves are those of the other network, in the same memory, and have neither gradients nor
    moments. All linear layers of the trunk have a difference. The head has none: over a vocabulary its gradient would
    be the largest of all.
    """

    rank: int | None = None

    @classmethod
    def build(cls, blueprint: Blueprint) -> LowRankDenoiser:
        """As `Network.build`.

        Raises:
            UserError: the backbone has no linear layer but its head.
        """
        network = super().build(blueprint)
        rank = getattr(blueprint.objective, "auxiliary_rank", None)
        if rank is not None:
            adapt(network, rank)
        return network

    def start_from(self, other: Network) -> None:
        """Take the weights of another network, not a copy of them, if only a difference is trained."""
        super().start_from(other)
        if self.rank is None:
            return
        assert isinstance(other, BackboneNetwork)
        theirs = dict(other.backbone.named_parameters())
        for path, module in self.backbone.named_modules():
            for name in list(module._parameters):
                key = f"{path}.{name}" if path else name
                if key in theirs:
                    setattr(module, name, theirs[key])

    def _initial_weights(self, other: BackboneNetwork) -> dict[str, Tensor]:
        """The other network's weights, and the differences, which are 0."""
        return {**self.backbone.state_dict(), **super()._initial_weights(other)}

    def take_gradients(self, trained: bool) -> None:
        if self.rank is None:
            super().take_gradients(trained)
            return
        self.backbone.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, LowRankLinear):
                module.down.requires_grad_(trained)
                module.up.requires_grad_(trained)
        for name, module in self.named_children():
            if name != "backbone":
                module.requires_grad_(trained)


def adapt(network: LowRankDenoiser, rank: int) -> None:
    """Give each linear layer of the trunk a difference of a rank.

    Raises:
        UserError: the backbone has no linear layer but its head.
    """
    head = getattr(network.backbone, "head", None)
    layers = [
        (parent, name, child)
        for parent in network.backbone.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child is not head
    ]
    if not layers:
        kind = network.backbone.config.type
        raise UserError(f"objective.auxiliary_rank: backbone '{kind}' has no linear layer but its head; set it to null")
    for parent, name, layer in layers:
        setattr(parent, name, LowRankLinear(layer, min(rank, layer.in_features, layer.out_features)))
    network.rank = rank

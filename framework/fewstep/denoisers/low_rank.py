"""A denoiser that differs from another one by matrices of low rank (LoRA, arXiv 2106.09685), or by its head alone.

Shapes: D inputs, E outputs of a linear layer, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.backbones.heads import TiedHead
from fewstep.core.errors import UserError
from fewstep.denoisers.base import Blueprint, Network
from fewstep.denoisers.half import linear
from fewstep.denoisers.network import BackboneNetwork, NetworkDenoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.evidence import LeaveOneOutPrediction
from fewstep.predictions.network import HeadPrediction


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

    Rank 0 is the other way round: the trunk is the other network's, and a head of its own is trained. Nothing goes back
    through the trunk, and one evaluation of it serves both (`on`).
    """

    rank: int | None = None

    @classmethod
    def build(cls, blueprint: Blueprint) -> LowRankDenoiser:
        """As `Network.build`.

        Raises:
            UserError: the backbone has no linear layer but its head, or no head for symbols of its own (rank 0).
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
        own = set[nn.Module]()
        if self.rank == 0:
            own = set(self.backbone.head.modules())
            self._copy_head(other)
        for path, module in self.backbone.named_modules():
            if module in own:
                continue
            for name in list(module._parameters):
                key = f"{path}.{name}" if path else name
                if key in theirs:
                    setattr(module, name, theirs[key])

    def _copy_head(self, other: BackboneNetwork) -> None:
        """Begin with the head of another network, also where that is tied to its embedding."""
        ours, theirs = self.backbone.head, other.backbone.head
        with torch.no_grad():
            for name in ("weight", "bias"):
                getattr(ours, name).copy_(getattr(theirs, name))

    def reads(self, other: Network) -> bool:
        """Whether this network is a head on the other one's trunk, of which one evaluation serves both."""
        if self.rank != 0 or not isinstance(other, NetworkDenoiser):
            return False
        adapters = ("noise_input", "step_input", "label_input")
        return all(getattr(network, name) is None for network in (self, other) for name in adapters)

    def on(self, prediction: Prediction) -> Prediction:
        """Its prediction from that of a network that it `reads`, whose hidden states are its own."""
        theirs = prediction.output
        assert isinstance(theirs, HeadPrediction)
        ours = HeadPrediction(theirs.hidden, self.backbone.head, theirs.vocab_size, theirs.known, theirs.where)
        return prediction.around(ours) if isinstance(prediction, LeaveOneOutPrediction) else ours

    def _initial_weights(self, other: BackboneNetwork) -> dict[str, Tensor]:
        """The other network's weights, and the differences, which are 0."""
        return {**self.backbone.state_dict(), **super()._initial_weights(other)}

    def take_gradients(self, trained: bool) -> None:
        if self.rank is None:
            super().take_gradients(trained)
            return
        self.backbone.requires_grad_(False)
        if self.rank == 0:
            self.backbone.head.requires_grad_(trained)
        for module in self.modules():
            if isinstance(module, LowRankLinear):
                module.down.requires_grad_(trained)
                module.up.requires_grad_(trained)
        for name, module in self.named_children():
            if name != "backbone":
                module.requires_grad_(trained)


def adapt(network: LowRankDenoiser, rank: int) -> None:
    """Give each linear layer of the trunk a difference of a rank, or, of rank 0, the trunk a head of its own.

    Raises:
        UserError: the backbone has no linear layer but its head, or its head is no linear layer (rank 0).
    """
    head = getattr(network.backbone, "head", None)
    if rank == 0:
        _untie(network)
        network.rank = 0
        return
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


def _untie(network: LowRankDenoiser) -> None:
    """Give a network a head with a weight of its own, if its head has the embedding's.

    Raises:
        UserError: the head is no linear layer over symbols.
    """
    head = network.backbone.head
    if isinstance(head, TiedHead):
        weight, bias = head.affine()
        network.backbone.head = nn.Linear(weight.shape[1], len(bias), device=weight.device, dtype=weight.dtype)
    elif type(head) is not nn.Linear:
        kind = network.backbone.config.type
        raise UserError(
            f"objective.auxiliary_rank: is 0, and the head of backbone '{kind}' is no linear layer; set it to null"
        )

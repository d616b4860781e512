"""Networks whose linear layers are kept in bfloat16: half of the memory, for networks that are not trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HalfLinear(nn.Linear):
    """A linear layer in bfloat16. Under autocast it computes what the layer in float32 does, to the bit.

    Autocast rounds the weights of each product to bfloat16, so they can as well be kept so. Without autocast the
    product is of the input's type.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        for parameter in self.parameters():
            parameter.data = parameter.data.bfloat16()  # in place: who shares the parameter has it too

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of this affine map (`Prediction.affine`)."""
        return self.weight, self.bias

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of the input's type, or of autocast's."""
    if not torch.is_autocast_enabled(input.device.type):
        weight, bias = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
    return F.linear(input, weight, bias)


def halve(network: nn.Module) -> None:
    """Keep the weights of linear layers in bfloat16; norms, embeddings and tied heads stay as they are.

    So do modules that compute in float32 under autocast too, which say so by an attribute `in_float32`.
    """
    for name, child in list(network.named_children()):
        if type(child) is nn.Linear:
            setattr(network, name, HalfLinear(child))
        elif not getattr(child, "in_float32", False):
            halve(child)

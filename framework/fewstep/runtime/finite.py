"""Whether tensors are finite, with one pass over them and one synchronisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a value that is infinite or no number; None if all values are finite."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    if not floats or torch.isfinite(torch.nn.utils.get_total_norm(floats.values(), norm_type=float("inf"))):
        return None
    return next(name for name, tensor in floats.items() if not torch.isfinite(tensor).all())

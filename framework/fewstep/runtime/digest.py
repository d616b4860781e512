"""Short names for what tensors hold."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digest(*tensors: Tensor) -> str:
    """First 16 digits of the SHA-256 of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def weights_digest(network: torch.nn.Module) -> str:
    """That of a network's weights."""
    return digest(*(tensor for _, tensor in sorted(network.state_dict().items())))

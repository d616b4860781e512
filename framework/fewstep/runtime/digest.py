"""Short digests of tensors and weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digest(*tensors: Tensor) -> str:
    """First 16 digits of the SHA-256 of tensors."""
    sha256 = hashlib.sha256()
    for tensor in tensors:
        sha256.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()[:16]


def weights_digest(network: torch.nn.Module) -> str:
    """Digest of a network's weights, in the order of their names."""
    tensors = (tensor for _, tensor in sorted(network.state_dict().items()))
    # A tensor that ranks divide between them is a DTensor; all of them ask for it together.
    return digest(*(tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in tensors))

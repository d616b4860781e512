"""The device of a setting."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.core.errors import UserError


def resolve_device(name: str, setting: str = "train.device") -> torch.device:
    """Device of a name; "auto" is a GPU if there is one, else the CPU.

    Args:
        setting: key or option that named it, for the message.

    Raises:
        UserError: the name is "cuda" and there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{setting}: is cuda, but torch finds no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; the host does not wait for a copy to a GPU, which is made from pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return pinned(tensor, device).to(device, non_blocking=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in memory that a GPU reads without the host's help; unchanged for other devices."""
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.is_pinned():
        return tensor
    return tensor.pin_memory()

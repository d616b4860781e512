"""The device of a setting."""

from __future__ import annotations

import torch

from fewstep.core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Device of a name; "auto" is a GPU if there is one, else the CPU.

    Raises:
        UserError: the name is "cuda" and there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device: is cuda, but torch finds no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")

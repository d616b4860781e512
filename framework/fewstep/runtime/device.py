"""Which device work is done on."""

from __future__ import annotations

import torch

from fewstep.core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one.

    Raises:
        UserError: "cuda" was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device: cuda was asked for, but torch finds no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")

"""Independent random streams from one seed."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose; different purposes give independent streams."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, purpose: str, device: torch.device | str = "cpu") -> Generator:
    """A generator on `device` that starts at `derived_seed(seed, purpose)`."""
    return Generator(device=device).manual_seed(derived_seed(seed, purpose))

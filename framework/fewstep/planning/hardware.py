"""GPUs as data sheets describe them. Prices are assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Args:
        memory: GiB that PyTorch can use.
        bf16: dense bf16 products, FLOP/s.
        tf32: dense products of float32 numbers rounded to TF32, FLOP/s.
        link: bytes a second that it sends to its neighbours in a node.
        price: dollars an hour.
    """

    name: str
    memory: float
    bf16: float
    tf32: float
    link: float
    price: float


GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("b200", 178, 2250e12, 1125e12, 900e9, 5.0),
        Gpu("h200", 139, 989e12, 494e12, 450e9, 3.5),
        Gpu("h100", 79, 989e12, 494e12, 450e9, 2.5),
        Gpu("a100", 79, 312e12, 156e12, 300e9, 1.5),
        Gpu("a100-40", 39, 312e12, 156e12, 300e9, 1.2),
        Gpu("l40s", 44, 362e12, 183e12, 32e9, 1.0),
        Gpu("rtx4090", 23, 165e12, 82e12, 32e9, 0.5),
    )
}
"""By name. The last two are linked by PCIe."""

NODE_LINK = 50e9
"""Bytes a second of a GPU to other nodes: 400 Gbit/s."""


def gpu_named(name: str) -> Gpu:
    """The GPU of a name.

    Raises:
        UserError: it is not known.
    """
    if name.lower() not in GPUS:
        near = did_you_mean(name, GPUS) or f"; known: {', '.join(GPUS)}"
        raise UserError(
            f"--gpu: no numbers of a '{name}' are known{near} (for another one name the nearest, and set --memory, "
            "--peak, --bandwidth and --price)"
        )
    return GPUS[name.lower()]

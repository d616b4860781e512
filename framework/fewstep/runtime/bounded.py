"""A limit on the parameters of a network, counted while it is built: a recipe of a stranger may ask for any number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

MAX_BUFFERS = 1 << 26
"""Numbers in tables (rotary angles, masks) that a network may have besides its weights."""


_SPARE_TENSORS, _SPARE_NUMBERS = 256, 1 << 20
"""What a network may have beyond its weights."""
_SMALL = 1 << 26
"""Numbers in a tensor that any machine has room for: 256 MB."""

N = TypeVar("N", bound=nn.Module)


class TooLargeError(Exception):
    """The limit was reached."""


@contextmanager
def parameters_within(tensors: int, numbers: int) -> Iterator[None]:
    """Context in which modules may register up to `tensors` parameters and `numbers` numbers in them.

    On torch's meta device, where tensors have shapes and no memory, this stops a network of any size before anything
    is allocated. Elsewhere a single tensor is allocated before it is counted.

    Raises:
        TooLargeError: more are registered; buffers may have `MAX_BUFFERS` numbers beside.
    """
    counts = {"tensors": 0, "numbers": 0, "buffers": 0}

    def count(key: str, value: Tensor | None) -> None:
        counts["tensors"] += 1
        counts[key] += 0 if value is None else value.numel()
        small = counts["tensors"] <= tensors and counts["numbers"] <= numbers
        if not (small and counts["buffers"] <= numbers + MAX_BUFFERS):
            raise TooLargeError

    def on_parameter(module: nn.Module, name: str, value: Tensor | None) -> None:
        count("numbers", value)

    def on_buffer(module: nn.Module, name: str, value: Tensor | None) -> None:
        count("buffers", value)

    handles = (
        register_module_parameter_registration_hook(on_parameter),
        register_module_buffer_registration_hook(on_buffer),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def build_bounded(build: Callable[[], N], weights: Collection[Tensor], largest: float) -> N:
    """Build a network, but no larger one than about its weights.

    Where its settings allow a large tensor, the network is built without memory first. That takes seconds (torch's meta
    device imports its compiler), so elsewhere parameters are counted as they are made. Modules may register more than
    they keep, such as a head before it is tied, so that the limit is not tight.

    Args:
        weights: the weights that it will have.
        largest: upper limit on the numbers in one of its tensors (`largest_tensor`).

    Raises:
        TooLargeError: it is larger.
    """
    numbers = 4 * sum(weight.numel() for weight in weights) + _SPARE_NUMBERS
    tensors = 8 * len(weights) + _SPARE_TENSORS
    if largest <= max(numbers, _SMALL):
        with parameters_within(tensors, numbers):
            return build()
    try:
        with torch.device("meta"), parameters_within(tensors, numbers):
            build()
    except TooLargeError:
        raise
    except Exception:  # a plugin's network may need memory; then its weights show whether it fits
        pass
    return build()


def largest_tensor(settings: Mapping[str, object], *sizes: int) -> float:
    """An upper limit on the numbers in a tensor of a backbone: its two largest sizes, times the largest ratio.

    Args:
        settings: of the backbone.
        sizes: further ones, such as symbols and tokens.
    """
    values = [value for key, value in settings.items() if key != "rotary_base"]
    parts = [part for value in values for part in (value if isinstance(value, (list, tuple)) else [value])]
    whole = sorted([1, *(part for part in parts if isinstance(part, int)), *sizes])
    return whole[-1] * whole[-2] * max([1.0, *(part for part in parts if isinstance(part, float))])

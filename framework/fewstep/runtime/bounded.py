"""A limit on the parameters of a network, counted while it is built: a recipe of a stranger may ask for any number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

MAX_BUFFERS = 1 << 26
"""Numbers in tables (rotary angles, masks) that a network may have besides its weights."""


_RANDOM = {"normal_", "uniform_", "trunc_normal_", "bernoulli_", "exponential_"}
"""In-place draws of tensors, with which modules initialise their weights."""


class WithoutInitialisation(TorchFunctionMode):
    """Leaves out initial values. Tensors of the meta device have none, and a draw of them imports torch's compiler."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


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

"""Compiled trunks of networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fewstep.backbones.base import Backbone
from fewstep.runtime.compiling import TrainCompileMode, compile_calls, compiles


def compile_trunks(
    network: nn.Module,
    mode: TrainCompileMode,
    device: torch.device,
    label: str,
    say: Callable[[str], None],
    *,
    graphs: bool = False,
) -> None:
    """Compile the backbones in a network when they are first called, if `mode` says so on this device.

    A backbone then maps tokens to hidden states by one graph. Heads, losses and draws stay as they are, and so do
    single blocks after a prefix.

    Args:
        label: of the network, for messages.
        graphs: record CUDA graphs on a GPU, for networks that are only sampled, or trained within `one_step`.
        say: where one line for each compilation goes.
    """
    if not compiles(mode, device):
        return
    for backbone in [module for module in network.modules() if isinstance(module, Backbone)]:
        backbone.settled(device.type)  # compiled code must not choose a backend
        compile_calls(
            backbone,
            f"the trunk of {label}",
            by_name=mode != "auto",
            graphs=graphs and device.type == "cuda",
            say=say,
            unless=_after_prefix,
        )


def _after_prefix(*args: object, prefix: object = None, **kwargs: object) -> bool:
    """Whether a call predicts one block: each prefix has another length, and keys and values are written in place."""
    return prefix is not None

"""Optimisers and learning rates of the trained roles."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fewstep.recipe.models import OptimSection


def _without_compiler(algorithm: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The algorithm without its wrappers for `torch.compile`, which import the compiler (seconds) when first called."""
    names = ("step", "zero_grad", "state_dict", "load_state_dict", "add_param_group")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(algorithm, name)) for name in names}
    methods["step"] = torch.no_grad()(methods["step"])  # which one of the wrappers does
    return type(algorithm.__name__, (algorithm,), methods)


_ALGORITHMS = {"adamw": _without_compiler(torch.optim.AdamW), "adam": _without_compiler(torch.optim.Adam)}


def settings_of(section: OptimSection, role: str) -> OptimSection:
    """`optim` with the common values replaced by the role's own."""
    own = section.roles.get(role)
    return section.model_copy(update=own.model_dump(exclude_none=True)) if own else section


def build_optimizer(section: OptimSection, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Optimiser over the parameters of a role; `section` holds its settings (`settings_of`)."""
    return _ALGORITHMS[section.optimizer](
        parameters,
        lr=section.lr,
        betas=section.betas,
        eps=section.eps,
        weight_decay=section.weight_decay if section.optimizer == "adamw" else 0.0,
        fused=True,
    )


def learning_rate(section: OptimSection, update: int, total: int) -> float:
    """Learning rate of update number `update` (from 0) of a role's `total` updates.

    A function of the update alone, in the place of torch's schedulers: nothing is stored, and a role whose updates
    pause goes on where it was. Values are those of torch's `LinearLR` and `CosineAnnealingLR`.
    """
    if update < section.warmup_steps:
        return section.lr * (update + 1) / section.warmup_steps
    progress = (update - section.warmup_steps) / max(1, total - section.warmup_steps)
    return section.lr * (section.floor + (1 - section.floor) * _share(section, progress))


def _share(section: OptimSection, progress: float) -> float:
    """What is left of the rate above the floor, at a share of the updates after the warm-up."""
    if section.decay == "linear":
        return 1 - progress
    if section.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if section.decay == "wsd":
        return min(1.0, (1 - progress) / section.decay_share)
    return 1.0

"""Which classes samples are asked for.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.predictions.condition import Condition
from fewstep.runtime.seeding import generator_for

ALL = "all"
"""Every class in turn."""


def labels_like_data(denoiser: Denoiser, dataset: Dataset, count: int, seed: int) -> Tensor | None:
    """Labels [N] of training samples drawn at random, or None for a denoiser that is told none.

    They have a random stream of their own, so that asking for classes does not change the noise.
    """
    if not denoiser.conditioned_on_labels:
        return None
    assert dataset.labels is not None
    rows = torch.randint(len(dataset.labels), (count,), generator=generator_for(seed, "labels"))
    return dataset.labels[rows]


def labels_asked_for(wanted: str, dataset: Dataset, count: int) -> Tensor:
    """Labels [N] for what a person typed: a class, or "all".

    Raises:
        UserError: there is no such class.
    """
    if wanted == ALL:
        return torch.arange(count) % dataset.classes
    if not wanted.isdecimal() or int(wanted) >= dataset.classes:
        raise UserError(f"no class '{wanted}'; the data have classes 0 to {dataset.classes - 1}, or say '{ALL}'")
    return torch.full((count,), int(wanted))


def condition_on(labels: Tensor | None, device: torch.device, given: Tensor | None = None) -> Condition:
    """The condition that consists of labels [N] and given tokens [N, L], or of nothing."""
    on_device = (None if tensor is None else tensor.to(device) for tensor in (labels, given))
    labels, given = on_device
    return Condition(labels, given=given)

"""Classes of the samples to draw.

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
    """Labels [N] of random training samples; None for a denoiser that is not conditioned on labels.

    They have their own random stream, so that a request for classes does not change the noise.
    """
    if not denoiser.conditioned_on_labels:
        return None
    assert dataset.labels is not None
    rows = torch.randint(len(dataset.labels), (count,), generator=generator_for(seed, "labels"))
    return dataset.labels[rows]


def requested_labels(name: str, dataset: Dataset, count: int) -> Tensor:
    """Labels [N] of a class named by a person, or of every class in turn for "all".

    Raises:
        UserError: there is no such class.
    """
    if name == ALL:
        return torch.arange(count) % dataset.classes
    if not name.isdecimal() or int(name) >= dataset.classes:
        raise UserError(f"no class '{name}'; the data have classes 0 to {dataset.classes - 1}, or say '{ALL}'")
    return torch.full((count,), int(name))


def condition_on(labels: Tensor | None, device: torch.device, templates: Tensor | None = None) -> Condition:
    """A condition on labels [N] and templates [N, L], each optional."""
    labels, templates = (None if tensor is None else tensor.to(device) for tensor in (labels, templates))
    return Condition(labels, prompt=templates)

"""A check that a dataset's `codec` suffices to show samples."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import Codec, Dataset, Files, Pictures, View


def codec_problem(dataset: Dataset) -> str | None:
    """The first defect of samples that are shown without the training data; None if there is none."""
    codec, samples = dataset.codec(), dataset.train[:3].long()
    if paths := [name for name in codec.files if Path(name).name != name]:
        return f"`codec` names the file '{paths[0]}', which is more than a name"
    try:
        # Values go through JSON, as they do in an exported folder.
        stored = Codec(json.loads(json.dumps(dict(codec.values))), dict(codec.files))
        bare = type(dataset).without_data(dataset.config, dataset.spec, dataset.fingerprint, stored, dataset.labels)
        is_same = bare.to_text(samples) == dataset.to_text(samples) and bare.symbols() == dataset.symbols()
        is_same = is_same and bare.views().keys() == dataset.views().keys()
        for ours, theirs in zip(bare.views().values(), dataset.views().values(), strict=False):
            is_same = is_same and _same_view(ours, theirs, samples)
    except (AttributeError, KeyError, TypeError, UserError) as error:
        return f"`codec` and `restore` must carry all that samples are shown by ({error})"
    if not is_same:
        return "samples look different without the training data; see `codec` and `restore`"
    if "train" in vars(bare):
        return "`restore` must leave `train` alone: an exported model has no training data"
    return None


def _same_view(ours: View, theirs: View, samples: Tensor) -> bool:
    """Whether two views show samples alike."""
    if isinstance(ours, Pictures):
        return isinstance(theirs, Pictures) and torch.equal(ours.draw(samples), theirs.draw(samples))
    return isinstance(theirs, Files) and ours.write(samples) == theirs.write(samples)

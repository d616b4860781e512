"""Whether a dataset's `codec` carries all that samples are read and shown by."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fewstep.core.errors import UserError
from fewstep.data.base import Codec, Dataset


def codec_problem(dataset: Dataset) -> str | None:
    """What is lost if samples are read and shown without the training data; None if nothing is."""
    codec, some = dataset.codec(), dataset.train[:3].long()
    if odd := [name for name in codec.files if Path(name).name != name]:
        return f"`codec` names the file '{odd[0]}', which is more than a name"
    try:
        kept = Codec(json.loads(json.dumps(dict(codec.values))), dict(codec.files))
        bare = type(dataset).without_data(dataset.config, dataset.spec, dataset.fingerprint, kept, dataset.labels)
        same = bare.to_text(some) == dataset.to_text(some) and bare.symbols() == dataset.symbols()
        for name in ("to_images", "to_drawings"):
            ours, theirs = getattr(bare, name)(some), getattr(dataset, name)(some)
            same = same and (ours is theirs is None or torch.equal(ours, theirs))
    except (AttributeError, KeyError, TypeError, UserError) as error:
        return f"`codec` and `restore` must carry all that samples are shown by ({error})"
    if not same:
        return "samples look different without the training data; see `codec` and `restore`"
    if "train" in vars(bare):
        return "`restore` must leave `train` alone: an exported model has no training data"
    return None

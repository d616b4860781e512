"""Conformance of supervisions.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

import torch

from fewstep.core.registry import Raw
from fewstep.runtime.streams import SampleStreams
from fewstep.supervision.base import SUPERVISIONS

BATCH, LENGTH = 64, 32


def check_supervision(config: Raw) -> None:
    """Check a supervision's masks: shape and type, same numbers for the same sample in any batch, new ones each step.

    Raises:
        AssertionError: a check fails.
    """
    supervision = SUPERVISIONS.build(config)

    def mask(numbers: range) -> torch.Tensor:
        streams = SampleStreams(0, numbers, purpose="supervision")
        return supervision.mask((len(numbers), LENGTH), device=torch.device("cpu"), generator=streams)

    whole = mask(range(BATCH))
    assert whole.shape == (BATCH, LENGTH), f"the mask has shape {tuple(whole.shape)}, not {(BATCH, LENGTH)}"
    assert whole.dtype == torch.bool, f"the mask is {whole.dtype}, not bool"
    assert whole.any(), "no token counts"
    assert torch.equal(whole, mask(range(BATCH))), "the same stream gives another mask"
    half = mask(range(BATCH // 2, BATCH))
    assert torch.equal(whole[BATCH // 2 :], half), "the mask of a sample depends on the others of its batch"
    if not whole.all():
        assert not torch.equal(whole, mask(range(BATCH, 2 * BATCH))), "later samples have the same mask"

"""Digits: a first few to train on, and the others held out."""

from __future__ import annotations

import torch

from fewstep.data.base import DATASETS


def test_a_limit_holds_out_the_other_digits() -> None:
    whole, few = DATASETS.build("digits"), DATASETS.build({"type": "digits", "limit": 100})
    assert whole.held_out is None
    assert few.held_out is not None
    assert len(few) == 100
    assert few.labels is not None
    assert torch.equal(torch.cat((few.train[:], few.held_out[:])), whole.train[:])
    assert few.classes == 10
    assert few.labels.bincount().min() >= 8, "every digit is among them"

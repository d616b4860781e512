"""Readable: nearly all real samples are, and the share counts those above the confidence."""

from __future__ import annotations

import pytest
import torch

from fewstep.data.base import DATASETS
from fewstep.data.images.base import image_data
from fewstep.evaluation.score import score
from fewstep.metrics.images.features import classifier_for


@pytest.mark.medium
def test_real_digits_can_be_read_and_mixed_ones_less() -> None:
    digits = DATASETS.build("digits")
    real = digits.train[:600]
    mixed = torch.where(torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) < 0.5, real, real.flip(0))
    values = [score(samples, digits, ["readable"])["readable"] for samples in (real, mixed)]
    assert values[0] > 0.8
    assert values[1] < values[0] - 0.3
    confidence = classifier_for(digits).confidence(image_data(digits).to_images(real))
    assert values[0] == pytest.approx(float((confidence >= 0.9).double().mean()))
    assert score(real, digits, [{"type": "readable", "confidence": 0.05}])["readable"] == 1

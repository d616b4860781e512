"""Class accuracy: right for real digits, wrong for the wrong labels, and refused where nothing was asked for."""

from __future__ import annotations

import pytest
import torch

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.evaluation.score import score
from fewstep.metrics.base import METRICS


@pytest.mark.medium
def test_real_digits_are_what_their_labels_say_and_no_others() -> None:
    digits = DATASETS.build("digits")
    assert digits.labels is not None
    values = [
        score(digits.train, digits, ["class_accuracy"], labels=labels)["class_accuracy"]
        for labels in (digits.labels, (digits.labels + 1) % 10)
    ]
    assert values[0] > 0.95
    assert values[1] < 0.05
    assert values[0] + values[1] <= 1


def test_it_is_refused_without_labels() -> None:
    digits = DATASETS.build("digits")
    with pytest.raises(UserError, match="were asked for no class"):
        score(digits.train[:5], digits, ["class_accuracy"])
    metric = METRICS.build("class_accuracy", dataset=digits)
    with pytest.raises(UserError, match="label_input"):
        metric.update(torch.zeros(1, 64, dtype=torch.long))

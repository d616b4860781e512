"""The longest copied span, against cases counted by hand and a search that tries everything."""

from __future__ import annotations

import pytest
import torch

from fewstep.core.component import ComponentConfig
from fewstep.data.base import Dataset, DataSpec
from fewstep.metrics.base import METRICS
from fewstep.metrics.text.longest_copy import longest_spans


class Rows(Dataset):
    """The rows that it is given."""

    def __init__(self, train: torch.Tensor, held_out: torch.Tensor | None = None) -> None:
        super().__init__(ComponentConfig(type="rows"))
        self.train, self.held_out = train, held_out
        self.spec = DataSpec(vocab_size=10, length=train.shape[1])

    def to_text(self, samples: torch.Tensor) -> list[str]:
        return [str(row) for row in samples.tolist()]


def by_trying(sample: list[int], source: list[list[int]]) -> int:
    """The longest span of a sample in any row, by looking for every span in every row."""
    length = len(sample)
    for span in range(length, 0, -1):
        parts = {tuple(row[at : at + span]) for row in source for at in range(length - span + 1)}
        if any(tuple(sample[at : at + span]) in parts for at in range(length - span + 1)):
            return span
    return 0


def test_by_hand() -> None:
    source = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]])
    samples = torch.tensor(
        [
            [1, 2, 3, 4, 5],  # a copy
            [9, 3, 4, 5, 0],  # 3 4 5, at another place
            [4, 5, 6, 7, 8],  # 6 7 8; 4 5 6 7 8 would span two rows
            [9, 1, 2, 0, 0],  # 9 1 or 1 2, never both
            [5, 4, 3, 2, 1],  # single tokens only
            [0, 0, 0, 0, 0],  # nothing
        ]
    )
    assert longest_spans(samples, source).tolist() == [5, 3, 3, 2, 1, 0]


@pytest.mark.parametrize("symbols", [2, 5, 50])
def test_against_trying_everything(symbols: int, rng: torch.Generator) -> None:
    source = torch.randint(symbols, (30, 17), generator=rng)
    samples = torch.randint(symbols, (40, 17), generator=rng)
    samples[:10, 3:12] = source[:10, 5:14]
    expected = [by_trying(sample, source.tolist()) for sample in samples.tolist()]
    assert longest_spans(samples, source).tolist() == expected


def test_nothing_to_copy_from() -> None:
    assert longest_spans(torch.zeros(2, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long)).tolist() == [0, 0]


def test_mean_maximum_and_what_held_out_data_score() -> None:
    train = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    metric = METRICS.build("longest_copy", dataset=Rows(train, held_out=torch.tensor([[1, 2, 3, 9], [9, 9, 9, 9]])))
    metric.update(torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]]))
    metric.update(torch.tensor([[2, 3, 0, 0], [6, 7, 0, 0]]))
    assert metric.compute() == {"longest_copy": 2.0, "longest_copy_max": 4.0, "longest_copy_data": 1.5}


def test_without_held_out_data_the_last_tenth_is_the_reference() -> None:
    train = torch.tensor([[1, 2, 3, 4]] * 19 + [[3, 4, 1, 2], [0, 0, 0, 1]])  # the last 3 of 21 rows
    metric = METRICS.build("longest_copy", dataset=Rows(train))
    metric.update(train[:1])
    assert metric.compute()["longest_copy_data"] == pytest.approx((4 + 2 + 1) / 3)

"""The coins' odds and sign, and their metric against the enumerated distribution."""

from __future__ import annotations

import itertools

import pytest
import torch

from fewstep.data.base import DATASETS
from fewstep.metrics.base import METRICS


def test_fair_coins_that_agree_are_as_they_were() -> None:
    data = DATASETS.build({"type": "coins", "coins": 3, "size": 5})
    assert data.train[:].tolist() == [[0] * 3, [1] * 3, [0] * 3, [1] * 3, [0] * 3]


@pytest.mark.parametrize("odds", [0.1, 0.3, 0.5, 0.7, 0.9, 1 / 3])
@pytest.mark.parametrize("sign", ["agree", "opposite"])
def test_odds_and_sign(odds: float, sign: str) -> None:
    train = DATASETS.build({"type": "coins", "coins": 3, "odds": odds, "sign": sign, "size": 900}).train[:]
    first = train[:, 0]
    assert int(first.sum()) == round(900 * odds)
    assert int(first[:90].sum()) == round(90 * odds)  # spread evenly
    assert torch.equal(train[:, 2], first)
    assert torch.equal(train[:, 1], first if sign == "agree" else 1 - first)


@pytest.mark.parametrize(
    "settings", [{}, {"odds": 0.7, "sign": "opposite"}, {"odds": 0.3, "coins": 3, "sign": "opposite"}]
)
def test_the_metric_is_the_total_variation(settings: dict[str, object]) -> None:
    data = DATASETS.build({"type": "coins", "size": 1000, **settings})
    length = data.spec.length
    samples = torch.randint(2, (4000, length), generator=torch.Generator().manual_seed(0))
    metric = METRICS.build("coin_distance", dataset=data)
    metric.update(samples)

    def share(rows: torch.Tensor, word: tuple[int, ...]) -> float:
        return float((rows == torch.tensor(word)).all(1).double().mean())

    words = list(itertools.product((0, 1), repeat=length))
    distance = sum(abs(share(samples, word) - share(data.train[:], word)) for word in words) / 2
    assert metric.compute()["coin_tv"] == pytest.approx(distance, abs=1e-9)


def test_exact_samples_are_at_distance_zero() -> None:
    data = DATASETS.build({"type": "coins", "odds": 0.7, "sign": "opposite", "size": 1000})
    metric = METRICS.build("coin_distance", dataset=data)
    metric.update(data.train[:])
    assert metric.compute() == pytest.approx({"coin_tv": 0.0, "heads": 0.7, "tails": 0.3})

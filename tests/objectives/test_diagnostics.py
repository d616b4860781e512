"""Diagnostics by bins of time."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.objectives.matching.diagnostics import by_time, diagnose
from fewstep.predictions.network import TablePrediction


def test_values_go_to_the_bin_of_their_time() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    where = torch.tensor([[True, False], [True, True], [False, True]])
    found = by_time("x", values, where, torch.tensor([0.0, 0.3, 1.0]))
    assert list(found) == ["x/0-0.25", "x/0.25-0.5", "x/0.5-0.75", "x/0.75-1"]
    assert [(float(total), int(count)) for total, count in found.values()] == [(1, 1), (7, 2), (0, 0), (6, 1)]


def table(*probs: float) -> TablePrediction:
    rows = torch.tensor([[list(probs)]]).log()
    return TablePrediction(rows, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))


def test_entropies_and_divergence_by_hand() -> None:
    t, s = torch.tensor([0.9]), torch.tensor([0.6])
    found = diagnose(table(0.5, 0.5), table(0.25, 0.75), table(0.5, 0.5), t, s)
    value = {name: float(total) for name, (total, count) in found.items() if count}
    teacher = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert value["student_entropy/0.75-1"] == pytest.approx(math.log(2))
    assert value["teacher_entropy/0.5-0.75"] == pytest.approx(teacher)
    assert value["kl/0.5-0.75"] == pytest.approx(kl)
    assert value["student_entropy"] == pytest.approx(math.log(2))
    assert value["log_ratio"] == pytest.approx((math.log(0.5 / 0.25) + math.log(0.75 / 0.5)) / 2)
    assert value["log_ratio/0.5-0.75"] == value["log_ratio"]
    assert len(value) == 6
    assert not math.isnan(float(diagnose(table(0.5, 0.5), table(1.0, 0.0), table(0.5, 0.5), t, s)["kl/0.5-0.75"][0]))

"""Divergences by their names: each against its formula in plain numbers, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.objectives.parts.divergence import Divergence, divergence
from fewstep.predictions.network import TablePrediction

P, Q = [0.7, 0.2, 0.1], [0.5, 0.25, 0.25]
FORMULAS: dict[Divergence, float] = {
    "reverse_kl": sum(p * math.log(p / q) for p, q in zip(P, Q, strict=True)),
    "forward_kl": sum(q * math.log(q / p) for p, q in zip(P, Q, strict=True)),
    "jeffreys": sum((p - q) * math.log(p / q) for p, q in zip(P, Q, strict=True)) / 2,
    "total_variation": sum(abs(p - q) for p, q in zip(P, Q, strict=True)) / 2,
    "squared_error": sum((p - q) ** 2 for p, q in zip(P, Q, strict=True)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_each_is_its_formula_and_moves_the_student_alone(name: Divergence) -> None:
    ids, where = torch.full((1, 2), 3), torch.ones(1, 2, dtype=torch.bool)
    student, teacher = (
        torch.tensor(law, dtype=torch.float64).log().expand(1, 2, 3).clone().requires_grad_(True) for law in (P, Q)
    )
    predictions = [TablePrediction(table, ids, where) for table in (student, teacher)]
    part = torch.tensor([[True, False]])
    value = divergence(name, *predictions, part)
    torch.testing.assert_close(value, torch.tensor([[FORMULAS[name], 0.0]], dtype=torch.float64))
    value.sum().backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0
    assert teacher.grad is None or float(teacher.grad.abs().sum()) == 0


@pytest.mark.parametrize("name", FORMULAS)
def test_equal_predictions_have_none(name: Divergence) -> None:
    ids, where = torch.full((1, 1), 3), torch.ones(1, 1, dtype=torch.bool)
    same = TablePrediction(torch.tensor(P, dtype=torch.float64).log().expand(1, 1, 3), ids, where)
    assert float(divergence(name, same, same, where)) == pytest.approx(0, abs=1e-15)

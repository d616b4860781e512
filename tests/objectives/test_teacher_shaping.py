"""Distilling a sharpened teacher: temperature, top-p with lowered logits, and the naive top-p that diverges."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from enumerable_denoisers import Table, V, make, run

from fewstep.core.errors import OperationError
from fewstep.objectives.dmmd import DMMD
from fewstep.predictions.shaping import lowered_top_p, outside_top_p
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit


def test_lowered_top_p_by_hand() -> None:
    row = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    kept = torch.tensor([1.0, 1.0, math.exp(-2), math.exp(-2)], dtype=torch.float64)
    expected = row * kept / (row * kept).sum()
    torch.testing.assert_close(lowered_top_p(0.7, 2.0)(row.log()).exp(), expected)
    assert outside_top_p(row.log(), 0.7).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("phase", ["student", "auxiliary"])
@pytest.mark.parametrize(
    "settings",
    [{"teacher_temperature": 0.5}, {"teacher_top_p": 0.6}, {"teacher_top_p": 0.6, "teacher_temperature": 2.0}],
)
def test_a_shaped_teacher_is_another_teacher_in_both_losses(phase: str, settings: dict[str, float]) -> None:
    """Distilling a shaped teacher equals distilling a teacher whose table was shaped beforehand."""
    ctx, roles = make("masked")
    shaped, _ = run(ctx, roles, DMMD(DMMD.Config(**settings)), phase)
    plain_ctx, plain = make("masked")
    table = plain["teacher"].logits.detach()
    rows = (table / settings.get("teacher_temperature", 1.0)).log_softmax(-1)
    if "teacher_top_p" in settings:
        rows = lowered_top_p(settings["teacher_top_p"], 2.0)(rows)
    with torch.no_grad():
        plain["teacher"].logits.copy_(rows)
    expected, _ = run(plain_ctx, plain, DMMD(DMMD.Config()), phase)
    torch.testing.assert_close(shaped, expected, rtol=1e-6, atol=1e-9)
    unshaped_ctx, unshaped = make("masked")
    assert not torch.allclose(run(unshaped_ctx, unshaped, DMMD(DMMD.Config()), phase)[0], expected, rtol=1e-3)


def student_gradient(delta: float | None) -> float:
    ctx, roles = make("masked")
    loss, _ = run(ctx, roles, DMMD(DMMD.Config(teacher_top_p=0.5, top_p_delta=delta)), "student")
    if not torch.isfinite(loss):
        return math.inf
    loss.backward()
    student: Table = roles["student"]
    assert student.logits.grad is not None
    return float(student.logits.grad.norm())


def test_lowering_bounds_the_gradient_and_forbidding_does_not() -> None:
    gentle, steep = student_gradient(2.0), student_gradient(1e4)
    assert math.isfinite(gentle)
    assert steep > 100 * gentle
    assert student_gradient(None) == math.inf
    assert V == 3


def test_naive_top_p_is_stopped_by_the_guard_and_delta_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(load_recipe("coins-teacher", ["train.steps=20"]), RunDir.create("t", tmp_path / "t"), echo=lambda line: None)
    sets = ["train.steps=20", "objective.teacher_top_p=0.4"]
    naive = load_recipe("coins-dmmd", [*sets, "objective.top_p_delta=null"], teacher="t")
    with pytest.raises(OperationError, match=r"loss is (inf|nan) in phase .*stopped before the update"):
        fit(naive, RunDir.create("naive", tmp_path / "naive"), echo=lambda line: None)
    fine = load_recipe("coins-dmmd", sets, teacher="t")
    assert fit(fine, RunDir.create("fine", tmp_path / "fine"), echo=lambda line: None).finished

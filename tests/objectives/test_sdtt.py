"""SDTT: targets of two teacher steps against enumeration, their times, and rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from enumerable_denoisers import L, Table, V, make
from torch import Tensor

from fewstep.core.errors import RecipeError
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.objectives.sdtt import SDTT
from fewstep.recipe import dump_recipe, parse_recipe
from fewstep.runs.folder import RunDir
from fewstep.testing.objectives import check_objective
from fewstep.training.trainer import Trainer

TRAIN = Phase("train", ("student",))
MASK = V


def build(**config: object) -> SDTT:
    objective = OBJECTIVES.build({"type": "sdtt", **config})
    assert isinstance(objective, SDTT)
    return objective


def at_time(ctx: StepContext, t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample is noised to t."""
    monkeypatch.setattr(ctx, "sample_time", lambda count, **_: torch.full((count,), t))


def enumerated_target(teacher: Table, first: float, second: float) -> Tensor:
    """Mean target of token 0 at [M, M]: p(MM) if it is revealed at once (probability `first`), and else what the
    teacher says at the second step, when token 1 may have been revealed."""

    def p(state: list[int], position: int) -> Tensor:
        return teacher.logits[teacher.index(torch.tensor([state]))][0, position].softmax(-1)

    both = p([MASK, MASK], 0)
    seen = sum(p([MASK, MASK], 1)[v] * p([MASK, v], 0) for v in range(V))
    return (first * both + (1 - first) * (first * seen + (1 - first) * both)).detach()


@pytest.mark.parametrize(("t", "step"), [(1.0, 0.4), (0.8, 0.4)])
def test_two_step_targets_equal_enumeration(t: float, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward KL has the gradient p - E[target] on the logits, so many draws show the mean target."""
    ctx, roles = make("masked")
    teacher, student = roles["teacher"], roles["student"]
    at_time(ctx, t, monkeypatch)
    many = 60_000
    objective = build(first_step=step, rounds=1, divergence="forward_kl", min_time=0.0)
    out = objective.loss(TRAIN, Batch(torch.zeros(many, L, dtype=torch.long)), ctx)
    (out.loss * float(student.calls[0][0].eq(MASK).sum())).backward()
    index = int(student.index(torch.tensor([[MASK, MASK]])))
    hidden = float((student.calls[0][0] == MASK).all(1).sum())
    assert student.logits.grad is not None
    got = student.logits[index, 0].softmax(-1).detach() - student.logits.grad[index, 0] / hidden
    expected = enumerated_target(teacher, step / t, step / (t - step))
    torch.testing.assert_close(got, expected, atol=0.006, rtol=0)
    assert float((expected - teacher.logits[index, 0].detach().softmax(-1)).abs().max()) > 0.03, (
        "the second step matters"
    )


def test_the_teacher_is_asked_at_t_and_one_step_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public code weighted the end of its grid by the start (related work: 0.990 and 0.090 for t = 0.9)."""
    ctx, roles = make("masked")
    at_time(ctx, 0.9, monkeypatch)
    build(first_step=1 / 1024, rounds=1).loss(TRAIN, Batch(torch.zeros(64, L, dtype=torch.long)), ctx)
    times = [float(t[0]) for _, t in roles["teacher"].calls]
    assert times == pytest.approx([0.9, 0.9 - 1 / 1024], abs=2e-6)
    assert [float(t[0]) for _, t in roles["student"].calls] == pytest.approx([0.9], abs=2e-6)


def test_steps_end_at_clean_data_and_not_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """t < step: all is revealed in the first step, and every target is the first prediction."""
    ctx, roles = make("masked")
    at_time(ctx, 0.1, monkeypatch)
    objective = build(first_step=0.4, rounds=1)
    z_t = torch.full((32, L), MASK)
    targets = objective.targets(z_t, torch.full((32,), 0.1), Batch(z_t), ctx)
    assert bool(targets[0][0].all())
    assert not bool(targets[1][0].any())
    assert min(float(t.min()) for _, t in roles["teacher"].calls) >= 0


def test_every_mask_has_one_target() -> None:
    ctx, _ = make("masked")
    z_t = torch.where(torch.rand(500, L) < 0.7, MASK, 0)
    parts = build(first_step=0.2, rounds=1, teacher_steps=3).targets(z_t, torch.full((500,), 0.9), Batch(z_t), ctx)
    assert torch.equal(sum(where.long() for where, _ in parts), (z_t == MASK).long())


def test_steps_double_from_round_to_round_and_the_student_becomes_the_teacher() -> None:
    ctx, _ = make("masked")
    objective = build(first_step=1 / 16, rounds=3)
    ctx.steps, lengths, refreshed = 7, [], []
    for step in range(7):
        ctx.step = step
        lengths.append(objective.config.length(objective.config.round(ctx)))
        ctx.step = step + 1
        refreshed.append(objective.config.begins(ctx))
    assert lengths == [1 / 16, 1 / 16, 1 / 16, 1 / 8, 1 / 8, 1 / 4, 1 / 4]
    assert [step + 1 for step, begins in enumerate(refreshed) if begins] == [3, 5]
    assert objective.usual_steps() == 2


def test_a_refreshed_teacher_is_the_student_of_that_moment(tmp_path: Path) -> None:
    """Two rounds over two steps: the teacher that ends the run is the student after step 1, and not its average."""
    start = trained(tmp_path / "teacher", "denoising", 2, None)
    one = trained(tmp_path / "one", {"type": "sdtt", "rounds": 1, "first_step": 0.1}, 1, start.run.path)
    two = trained(tmp_path / "two", {"type": "sdtt", "rounds": 2, "first_step": 0.1}, 2, start.run.path)
    first = one.roles["student"].state_dict()
    assert any(not torch.equal(w, start.roles["student"].state_dict()[name]) for name, w in first.items())
    assert all(torch.equal(w, first[name]) for name, w in two.roles["teacher"].state_dict().items())
    last = json.loads(two.run.metrics.read_text().splitlines()[-1])
    assert last["evaluations"] == 2 * 8 * 3, "each step, each sample: two of the teacher, one of the student"


def trained(path: Path, objective: object, steps: int, teacher: Path | None) -> Trainer:
    raw = {
        "name": "x",
        "data": {"type": "markov", "vocab_size": 4, "length": 6, "size": 64},
        "process": "masked",
        "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
        "objective": objective,
        "optim": {"lr": 0.01, "warmup_steps": 0, "decay": "constant"},
        "train": {"steps": steps, "batch_size": 8, "device": "cpu"},
        **({"teacher": {"run": str(teacher), "weights": "raw"}} if teacher else {}),
    }
    recipe, run = parse_recipe(raw), RunDir.create("x", path)
    run.resolved.write_text(dump_recipe(recipe))
    trainer = Trainer.from_recipe(recipe, run, echo=lambda line: None)
    trainer.fit()
    return trainer


def test_a_run_that_stops_in_the_middle_of_a_round_resumes_exactly() -> None:
    """Four rounds over seven steps, interrupted at step 4: teacher and round are part of the checkpoint."""
    check_objective({"type": "sdtt", "rounds": 4, "first_step": 0.05}, steps=7)


def test_processes_without_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="targets are taken where masks are revealed"):
        parse_recipe(
            {
                "name": "x",
                "data": "digits",
                "process": "uniform",
                "backbone": "transformer",
                "objective": "sdtt",
                "teacher": {"run": str(tmp_path)},
                "train": {"steps": 1},
            }
        )

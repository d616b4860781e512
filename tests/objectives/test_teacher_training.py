"""A teacher that follows a copy, which learns from data while the teacher is distilled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from enumerable_denoisers import TimedOracle, make
from torch import Generator

from fewstep.core.errors import RecipeError, UserError
from fewstep.objectives.base import Batch, Phase
from fewstep.objectives.dmmd import DMMD
from fewstep.objectives.parts.teacher_training import TeacherTraining, check_teacher, follow
from fewstep.recipe import load_recipe, parse_recipe
from fewstep.runtime.ranks import Ranks
from fewstep.testing import check_objective


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_the_trainer_keeps_the_contract(updates: str) -> None:
    """Finite, gradients reach the copy alone in its phase, and resumed bit by bit with the teacher that has moved."""
    check_objective({"type": "dmmd", "updates": updates, "teacher_training": {"every": 1, "decay": 0.5}})


def test_the_copy_has_a_step_after_rounds_of_the_game() -> None:
    phases = DMMD(DMMD.Config(teacher_training={"every": 2})).phases()  # type: ignore[arg-type]
    assert [phase.name for phase in phases] == ["student", "auxiliary", "student", "auxiliary", "teacher"]
    assert "learner" not in DMMD().roles
    assert DMMD.roles["learner"].starts_from == "teacher"


def test_the_teacher_is_the_moving_average() -> None:
    ctx, roles = make("masked")
    ctx.roles = {**roles, "learner": roles["student"]}
    before, copy = roles["teacher"].logits.clone(), roles["student"].logits
    follow(TeacherTraining(decay=0.75), ctx)
    torch.testing.assert_close(roles["teacher"].logits.data, 0.75 * before + 0.25 * copy)


def test_texts_weigh_by_their_tokens() -> None:
    """The trainer reads from its own context how many terms the mean of a micro-batch has."""
    ctx, roles = make("masked")
    ctx.roles = {"learner": roles["student"]}
    x0 = torch.zeros(4, 2, dtype=torch.long)
    batch = Batch(x0, text=torch.tensor([[True, False]] * 4))
    ctx.batch = batch
    DMMD(DMMD.Config(teacher_training={})).loss(Phase("teacher", ("learner",)), batch, ctx)  # type: ignore[arg-type]
    assert ctx.terms == 4


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_an_exact_copy_does_not_move(process: str) -> None:
    """Where the copy is exact its gradient is 0 within five standard errors, so the teacher stays where it is."""
    law, objective = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), DMMD(DMMD.Config(teacher_training={}))  # type: ignore[arg-type]
    gradients = []
    for seed in range(8):
        ctx, _ = make(process, length=1)
        learner = TimedOracle(ctx.process, law)
        ctx.roles = {"learner": learner}
        ctx.generators = {n: Generator().manual_seed(3 * seed + i) for i, n in enumerate(ctx.generators)}
        data = torch.multinomial(law, 2_000, replacement=True, generator=Generator().manual_seed(seed))[:, None]
        loss = objective.loss(Phase("teacher", ("learner",)), Batch(data), ctx).loss
        gradients.append(torch.autograd.grad(loss, learner.bias)[0])
    repeats = torch.stack(gradients)
    assert (repeats.mean(0).abs() <= 5 * repeats.std(0) / len(repeats) ** 0.5 + 1e-9).all()


def test_teachers_that_cannot_follow_are_refused() -> None:
    ctx, _ = make("masked")
    with pytest.raises(UserError, match="this teacher is a mixture over a noise input"):
        check_teacher(ctx)
    with pytest.raises(UserError, match=r"set parallel\.strategy to ddp"):
        check_teacher(replace(ctx, ranks=Ranks(together=True)))


def recipe(objective: dict[str, Any], **changes: Any) -> None:
    raw = {
        "name": "x",
        "data": "coins",
        "process": "masked",
        "backbone": "transformer",
        "objective": {"type": "dmmd", **objective},
        "teacher": {"run": "runs/x"},
        "train": {"steps": 10},
    }
    parse_recipe({**raw, **changes})


def test_its_optimiser_has_settings_only_where_it_is() -> None:
    optim = {"roles": {"learner": {"lr": 1e-4}}}
    recipe({"teacher_training": {}}, optim=optim)
    with pytest.raises(RecipeError, match=r"optim\.roles\.learner: objective 'dmmd' trains no role 'learner'"):
        recipe({}, optim=optim)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_training": {"decay": 1}}, r"objective\.teacher_training\.decay"),
        ({"teacher_training": {"every": 0}}, r"objective\.teacher_training\.every"),
        ({"teacher_training": {}, "auxiliary_rank": 2}, r"objective\.auxiliary_rank: shares the teacher's weights"),
        (
            {"teacher_training": {"denoising": {"loss": "bound", "weighting": "elbo"}}},
            r"objective\.teacher_training\.denoising\.weighting: the bound has a weight of its own",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(settings)


def test_shipped_recipes_have_none() -> None:
    loaded = load_recipe("coins-dmmd", [], teacher="runs/x")
    assert loaded.recipe.objective.model_dump()["teacher_training"] is None

"""The objective against enumeration on coins; recipes and refusals."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from fewstep_budget import StepBudget
from torch import Tensor
from torch.nn import functional

from fewstep import OBJECTIVES, PROCESSES, load_recipe
from fewstep.core.errors import RecipeError
from fewstep.processes.base import discrete
from fewstep.runs.folder import RunDir
from fewstep.testing import (
    Coins,
    EnumeratedOracle,
    FreeDenoiser,
    all_sequences,
    check_objective,
    exact_distribution,
    loss_of,
    step_context,
)
from fewstep.training.launch import fit

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = ("train.steps=4", "train.log_every=1", "train.device=cpu", "watch.times=0", "data.size=256")
SECTIONS = {"step_input": {}, "backbone.time_conditioned": True}
DATA = Coins(Coins.Config(odds=0.7, size=1000))
COINS = exact_distribution(DATA)
PROCESS = discrete(PROCESSES.build("uniform", vocab_size=2))
ORACLE = EnumeratedOracle(PROCESS, COINS)
STATES = all_sequences(2, 2)


@pytest.mark.parametrize("target", ["data", "teacher"])
def test_it_keeps_its_contract(target: str) -> None:
    check_objective({"type": "step_budget", "shortest": 0.25, "shortest_target": target}, sections=SECTIONS)


def rows_at(time: float) -> Tensor:
    """Exact p(x | z) of all four states, [4, 2, 2]."""
    return ORACLE.rows(STATES, torch.full((4,), time, dtype=torch.float64)).exp()


def noised(time: float) -> Tensor:
    """P(z | x) of all texts and states, [4, 4]."""
    alpha = float(PROCESS.schedule.alpha(torch.tensor(time, dtype=torch.float64)))
    same = (STATES[:, None] == STATES[None]).double()
    return (same * (alpha + (1 - alpha) / 2) + (1 - same) * (1 - alpha) / 2).prod(-1)


def moved(probs: Tensor, t: float, s: float) -> Tensor:
    """P(z_s | z_t) of a jump by rows [4, 2, 2] at each state z_t: [4, 4]."""
    noise = [float(PROCESS.schedule.noise(torch.tensor(time, dtype=torch.float64))) for time in (t, s)]
    out = torch.ones(4, 4, dtype=torch.float64)
    for (i, z), (j, y) in product(enumerate(STATES), enumerate(STATES)):
        for place in range(2):
            stay = (noise[1] / noise[0]) ** (1 - float(probs[i, place, z[place]]))
            out[i, j] *= stay if y[place] == z[place] else 1 - stay
    return out


def enumerated_gradient(logits: Tensor, average: str) -> Tensor:
    """Gradient of the expected loss with lengths 1/2 and 1, drawn evenly: t is 1/2 or 1, and 1."""
    logits = logits.detach().clone().requires_grad_(True)
    index = (STATES * torch.tensor([1, 2])).sum(1)
    log_p = logits[index].log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for time in (0.5, 1.0):  # the shortest step
        joint = COINS.flatten()[:, None] * noised(time)
        for (i, x), j in product(enumerate(STATES), range(4)):
            total = total - 0.25 * joint[i, j] * log_p[j].gather(1, x[:, None]).mean()
    now, middle = rows_at(1.0), rows_at(0.5)
    state = COINS.flatten() @ noised(1.0)
    step = moved(now, 1.0, 0.5)
    for i, j in product(range(4), range(4)):
        if average == "logits":
            target = (0.5 * now[i].log() + 0.5 * middle[j].log()).softmax(-1)
        else:
            target = 0.5 * now[i] + 0.5 * middle[j]
        total = total + 0.5 * state[i] * step[i, j] * (target * (target.log() - log_p[i])).sum(-1).mean()
    return torch.autograd.grad(total, logits)[0]


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_gradient_is_that_of_enumeration(average: str) -> None:
    config = {"type": "step_budget", "shortest": 0.5, "length_power": 0.0, "solver": "heun", "average": average}
    objective, student = OBJECTIVES.build(config), FreeDenoiser(PROCESS, 2)
    roles = {"teacher": ORACLE, "student": student, "target": ORACLE}
    draws = []
    for seed in range(60):
        loss = loss_of(objective, PROCESS, roles, DATA.train.long(), seed=seed).loss
        draws.append(torch.autograd.grad(loss, student.logits)[0])
    gradients = torch.stack(draws)
    error = gradients.std(0) / len(draws) ** 0.5
    exact = enumerated_gradient(student.logits, average)
    assert ((gradients.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all()
    assert exact.abs().max() > 0.01


def test_the_mean_of_logits_is_sharper_than_the_posterior() -> None:
    """Where tokens depend on each other, stages differ, and their geometric mean has less entropy than their mean."""
    now, middle = rows_at(1.0), rows_at(0.5)
    step = moved(now, 1.0, 0.5)[0]
    arithmetic = (step[:, None, None] * (now[0] + middle) / 2).sum(0)
    geometric = ((step[:, None, None] * (now[0].log() + middle.log()) / 2).sum(0)).softmax(-1)

    def entropy(p: Tensor) -> float:
        return float(-(p * p.log()).sum(-1).mean())

    assert entropy(geometric) < entropy(arithmetic) - 0.01


@pytest.mark.parametrize(("power", "shares"), [(-1.0, [4 / 7, 2 / 7, 1 / 7]), (0.0, [1 / 3] * 3)])
def test_steps_are_drawn_in_their_shares_on_the_grid(power: float, shares: list[float]) -> None:
    objective = StepBudget(StepBudget.Config(shortest=0.25, length_power=power))
    t, length = objective.steps(60_000, step_context(PROCESS, {"student": ORACLE}))
    for value, share in zip((0.25, 0.5, 1.0), shares, strict=True):
        here = length == value
        assert float(here.double().mean()) == pytest.approx(share, abs=1e-3)
        places = (t[here] / 0.25).round()
        assert torch.equal(places * 0.25, t[here])
        counts = torch.bincount(places.long(), minlength=5).double() / here.sum()
        first = round(value / 0.25)
        assert counts[:first].sum() == 0
        torch.testing.assert_close(counts[first:], torch.full_like(counts[first:], 1 / (5 - first)), atol=0.02, rtol=0)


def test_the_average_follows_the_student() -> None:
    objective = StepBudget(StepBudget.Config(target_decay=0.75))
    student, target = FreeDenoiser(PROCESS, 2, seed=1), FreeDenoiser(PROCESS, 2, seed=2)
    expected = 0.75 * target.logits.detach() + 0.25 * student.logits.detach()
    objective.after_step(objective.phases()[0], step_context(PROCESS, {"student": student, "target": target}))
    torch.testing.assert_close(target.logits.detach(), expected)


def test_the_student_tells_lengths_apart(tmp_path: Path) -> None:
    from fewstep.runs.models import open_model

    teacher = RunDir.create("teacher", tmp_path / "teacher")
    fit(load_recipe(RECIPES / "budget-markov-teacher.yaml", SMALL), teacher, echo=lambda line: None)
    loaded = load_recipe(RECIPES / "budget-markov.yaml", SMALL, teacher=str(teacher.path))
    fit(loaded, RunDir.create("student", tmp_path / "student"), echo=lambda line: None)
    network: Any = open_model(tmp_path / "student").network
    x, t = torch.zeros(1, 16, dtype=torch.long), torch.ones(1)
    long, short = (network(x, t, t - length).log_probs() for length in (1.0, 1 / 64))
    assert not functional.kl_div(long, short, log_target=True, reduction="sum").abs() < 1e-9


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).recipe.name == path.stem


REFUSED = {
    "masks": (["process=masked"], "'step_budget' is for the uniform process, not masked, .* use consistency or sdtt"),
    "no step": (["step_input=null"], r"the student must know the length of its step; add `step_input: \{\}`"),
    "no time": (["backbone.time_conditioned=false"], "set backbone.time_conditioned to true"),
    "a third": (["objective.shortest=0.3"], "must be 1/2, 1/4, 1/8, ..., not 0.3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        load_recipe(RECIPES / "budget-markov.yaml", changes)

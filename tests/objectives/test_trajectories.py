"""Trajectories of a teacher under shared noise, and the settings of the game around them, on enumerable cases."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from enumerable_denoisers import Table, TimedOracle, V, make, row
from torch import Generator, Tensor

from fewstep.adapters.noise.stable import exact_logits, log_stable
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import RecipeError, UserError
from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.objectives.dmmd import DMMD
from fewstep.objectives.parts.ramp import Ramp
from fewstep.objectives.parts.trajectories import Groups, places_in_turns, trajectory_loss
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.logit_noise import LogitNoise, NoisyPrediction
from fewstep.processes.base import PROCESSES
from fewstep.recipe import dump_recipe, load_recipe, parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runtime.streams import Randomness

ALPHA = 0.5


class Noisy(DenoiserAround):
    """A denoiser with exact-law noise at its logits, which it does not see; it remembers the numbers."""

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        plain = self.denoiser.predict(x_t, t, s, cond, generator)
        self.zeta = log_stable((*x_t.shape, V), ALPHA, generator, device="cpu", dtype=torch.float64)
        return NoisyPrediction(plain, LogitNoise(self.zeta, partial(exact_logits, alpha=ALPHA)))


def noisy(length: int) -> tuple[StepContext, Noisy, Table]:
    """A context with a student that has noise, and its teacher."""
    ctx, roles = make("masked", length)
    student = Noisy(roles["student"])
    ctx.roles = {**roles, "student": student}
    return ctx, student, roles["teacher"]


def values_of(ctx: StepContext, data: Tensor, t: Tensor, turns: Tensor) -> Tensor:
    teacher = ctx.denoiser("teacher")
    return trajectory_loss(Batch(data), ctx, t, t, masks(turns), teacher)[1]


def masks(turns: Tensor) -> list[Tensor]:
    """Places of each turn, from the turn of each place."""
    return [turns == turn for turn in range(int(turns.max()) + 1)]


@pytest.mark.parametrize("turns", [[0, 1], [0, 0], [2, 0, 1], [0, 1, 0]])
def test_losses_are_those_of_plain_loops(turns: list[int]) -> None:
    """Values and gradient of 40 samples of partly masked tokens, by the student's numbers and the levels drawn."""
    length, count = len(turns), max(turns) + 1
    ctx, student, teacher = noisy(length)
    data = torch.randint(V, (40, length), generator=Generator().manual_seed(7))
    t = torch.linspace(0.2, 1, 40)
    values = values_of(ctx, data, t, torch.tensor(turns))
    values.sum().backward()
    table = student.denoiser
    assert isinstance(table, Table)
    z_t = table.calls[0][0]
    levels = torch.rand(z_t.shape, generator=Generator().manual_seed(2), dtype=torch.float64)
    expected, gradient = torch.zeros(40, length, dtype=torch.float64), torch.zeros_like(table.logits)
    for b, masked in enumerate((z_t == V).tolist()):
        state = z_t[b].tolist()
        for turn in range(count):
            before = list(state)
            for i in [i for i in range(length) if turns[i] == turn and masked[i]]:
                q, p = row(teacher, before, i), row(table, z_t[b].tolist(), i)
                expected[b, i] = -sum(a * math.log(c) for a, c in zip(q, p, strict=True))
                index = int(table.index(z_t[b : b + 1]))
                gradient[index, i] += torch.tensor(p) - torch.tensor(q)
                weights = (torch.tensor(q, dtype=torch.float64).log() / ALPHA + student.zeta[b, i]).softmax(0)
                state[i] = int((weights.cumsum(0) <= levels[b, i]).sum())
    torch.testing.assert_close(values.detach().double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table.logits.grad, gradient, rtol=1e-5, atol=1e-6)
    assert teacher.logits.grad is None
    times = [time for _, time in teacher.calls]
    # The linear schedule keeps 1e-4 of the signal at its end.
    torch.testing.assert_close(torch.stack(times), t * (1 - torch.arange(count)[:, None] / count), atol=2e-4, rtol=0)


@pytest.mark.parametrize("turns", [[0, 1], [2, 0, 1]])
def test_targets_equal_enumeration(turns: list[int]) -> None:
    """The mean loss from all masks is that of every sequence, by the teacher's own law: the noise does not move it."""
    length, count = len(turns), 20_000
    ctx, student, teacher = noisy(length)
    values = values_of(ctx, torch.zeros(count, length).long(), torch.ones(count), torch.tensor(turns))
    order = sorted(range(length), key=turns.__getitem__)
    expected = [0.0] * length
    table = student.denoiser
    assert isinstance(table, Table)
    for sequence in itertools.product(range(V), repeat=length):
        state, weight = [V] * length, 1.0
        terms = [0.0] * length
        for i in order:
            q, p = row(teacher, state, i), row(table, [V] * length, i)
            terms[i] = -sum(a * math.log(c) for a, c in zip(q, p, strict=True))
            weight *= q[sequence[i]]
            state[i] = sequence[i]
        expected = [total + weight * term for total, term in zip(expected, terms, strict=True)]
    error = values.detach().std(0) / count**0.5
    assert ((values.detach().mean(0) - torch.tensor(expected)).abs() <= 5 * error + 1e-6).all()


LAW = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
NEW: list[dict[str, Any]] = [
    {},
    {"below_end": 0.6},
    {"k": {"from": 1, "to": 6, "over": 0.5}, "times": "grid", "below_end": 0.3},
    {"backward": 0.5},
    {"warmup": {"share": 0.3, "groups": 1}, "auxiliary_first": 0.2, "student_ramp": 0.2},
    {"warmup": {"share": 0.3, "groups": 1}, "auxiliary_first": 0.2, "updates": "simultaneous"},
]


@pytest.mark.parametrize("settings", NEW)
def test_nobody_moves_at_the_optimum(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One token, all three networks exact, the student with noise: each gradient is 0 within five standard errors."""
    monkeypatch.setattr("fewstep.objectives.dmmd.places_in_turns", lambda *_: masks(torch.zeros(1)))
    objective = DMMD(DMMD.Config(**settings))
    for phase in objective.phases():
        gradients: dict[str, list[Tensor]] = {name: [] for name in phase.train}
        for seed in range(8):
            ctx, _ = make("masked", length=1)
            roles: dict[str, Denoiser] = {n: TimedOracle(ctx.process, LAW) for n in ("teacher", "student", "auxiliary")}
            leaves = {name: network.bias for name, network in roles.items()}
            roles["student"] = Noisy(roles["student"])
            ctx.roles, ctx.step, ctx.steps = roles, 3, 10
            ctx.generators = {n: Generator().manual_seed(3 * seed + i) for i, n in enumerate(ctx.generators)}
            for name, network in roles.items():
                network.requires_grad_(name in phase.train)
            data = torch.multinomial(LAW, 2_000, replacement=True, generator=Generator().manual_seed(seed))[:, None]
            objective.setup(ctx)
            loss = objective.loss(phase, Batch(data), ctx).loss
            found = torch.autograd.grad(loss, [leaves[name] for name in phase.train])  # type: ignore[misc]
            for name, gradient in zip(phase.train, found, strict=True):
                gradients[name].append(gradient)
        for repeats in map(torch.stack, gradients.values()):
            assert (repeats.mean(0).abs() <= 5 * repeats.std(0) / len(repeats) ** 0.5 + 1e-9).all()


def test_a_warmup_is_the_objective_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = masks(torch.tensor([0, 1]))
    losses = []
    for module, config in (("dmmd", {"warmup": {"groups": 2}}), ("shared_noise", {"groups": 2})):
        monkeypatch.setattr(f"fewstep.objectives.{module}.places_in_turns", lambda *_: turns)
        ctx, student, _ = noisy(2)
        objective = OBJECTIVES.build({"type": module, **config})
        objective.setup(ctx)
        data = torch.randint(V, (64, 2), generator=Generator().manual_seed(7))
        loss = objective.loss(objective.phases()[0], Batch(data), ctx).loss
        losses.append((loss, *torch.autograd.grad(loss, student.denoiser.logits)))  # type: ignore[arg-type]
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(losses[0][1], losses[1][1])


def turns_of(groups: Groups, grid: tuple[int, int, int] | None, length: int) -> Tensor:
    process = PROCESSES.build("masked", vocab_size=4)
    tokens = TokenSpace(process.num_states, 4, length, grid)
    trunk = BACKBONES.build({"type": "transformer", "width": 8, "depth": 1, "heads": 2}, tokens=tokens)
    turns = places_in_turns(NetworkDenoiser(trunk, process), groups)
    assert torch.stack(list(turns)).sum(0).eq(1).all(), "each place has one turn"
    return torch.stack(list(turns)).int().argmax(0)


def test_turns_spread_their_places() -> None:
    assert turns_of(4, None, 8).tolist() == [0, 2, 1, 3, 0, 2, 1, 3]
    assert turns_of(1, None, 3).tolist() == [0, 0, 0]
    assert turns_of(3, None, 6).tolist() == [0, 2, 1, 0, 2, 1]
    square = turns_of((2, 2), (2, 4, 1), 8).view(2, 4)
    assert square.tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]
    colour = turns_of((4, 2), (4, 4, 3), 48).view(4, 4, 3)
    assert torch.equal(colour[..., 0], colour[..., 2]), "channels of a pixel share its turn"
    assert colour[..., 0].unique(return_counts=True)[1].tolist() == [2] * 8


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="3 groups do not divide 8 places"):
        turns_of(3, None, 8)
    with pytest.raises(UserError, match="3 groups do not divide 4 places"):
        turns_of((2, 3), (2, 4, 1), 8)
    with pytest.raises(UserError, match="groups of rows and columns are for images"):
        turns_of((2, 2), None, 8)


def recipe(objective: dict[str, Any], **changes: Any) -> Recipe:
    raw = {
        "name": "x",
        "data": {"type": "markov", "length": 16},
        "process": "masked",
        "backbone": "transformer",
        "objective": objective,
        "teacher": {"run": "runs/x"},
        "noise_input": "stable",
        "train": {"steps": 10},
    }
    return parse_recipe({**raw, **changes})


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        (
            {"warmup": {}},
            {"noise_input": "gaussian"},
            r"objective\.warmup\.groups: trajectories go by",
        ),
        ({"warmup": {}}, {"noise_input": None}, r"set `noise_input: stable`"),
        ({"warmup": {}}, {"process": "uniform"}, r"objective\.warmup\.groups: .* the uniform process has none"),
        ({"warmup": {"groups": 5}}, {}, r"objective\.warmup\.groups: 5 groups do not divide samples of 16 tokens"),
        ({"warmup": {"groups": 0}}, {}, r"objective\.warmup\.groups: should be at least 1"),
        ({"warmup": {"share": 1.0}}, {}, r"objective\.warmup\.share"),
        ({"warmup": {"share": 0.7}, "auxiliary_first": 0.3}, {}, r"objective\.auxiliary_first: no steps are left"),
        ({"k": {"from": 2, "to": 8}, "k_max": 16}, {}, r"objective\.k_max: k changes with the training already"),
        ({"k": {"from": 2}}, {}, r"objective\.k.*: required key 'to' is missing"),
        ({"k": "x"}, {}, r"objective\.k: should be a valid integer, not 'x'"),
        ({"k": 0}, {}, r"objective\.k: should be greater than or equal to 1, not 0"),
        ({"k": 8, "k_max": 4}, {}, r"objective\.k_max: must be more than k, which is 8"),
        ({"below_end": 0.5, "times": "start", "renoise": "forward"}, {}, r"objective\.below_end: with times 'start'"),
        ({"type": "shared_noise"}, {"process": "uniform"}, r"objective\.groups: .* the uniform process has none"),
        ({"type": "shared_noise"}, {"noise_input": "gaussian"}, r"objective\.groups: trajectories go by"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    objective: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe({"type": "dmmd", **objective}, **changes)


def test_a_ramp_goes_evenly_in_the_logarithm_and_is_written_as_it_was_read(tmp_path: Path) -> None:
    ramp = Ramp.model_validate({"from": 2, "to": 8, "over": 0.5})
    assert [ramp.at(step, 100) for step in (0, 25, 49, 50, 99)] == [2, 4, 8, 8, 8]
    first = recipe({"type": "dmmd", "k": {"from": 2, "to": 8, "over": 0.5}, "warmup": {"groups": [2, 2]}})
    (tmp_path / "again.yaml").write_text(dump_recipe(first))
    assert load_recipe(str(tmp_path / "again.yaml")).recipe.objective == first.objective
    assert OBJECTIVES.build(first.objective).usual_steps() == 8


def test_phases_follow_one_another() -> None:
    settings: dict[str, Any] = {"warmup": {"share": 0.25}, "auxiliary_first": 0.25, "student_ramp": 0.5}
    both = DMMD(DMMD.Config(updates="simultaneous", **settings)).phases()
    assert [(p.name, p.train, p.after, p.until) for p in both] == [
        ("warmup", ("student",), 0.0, 0.25),
        ("auxiliary", ("auxiliary",), 0.25, 0.5),
        ("both", ("student", "auxiliary"), 0.5, 1.0),
    ]
    assert (both[2].ramp, both[2].ramped) == (0.5, ("student",))
    turns = DMMD(DMMD.Config(**settings)).phases()
    assert [(p.name, p.after, p.until) for p in turns] == [
        ("warmup", 0.0, 0.25),
        ("student", 0.5, 1.0),
        ("auxiliary", 0.25, 1.0),
    ]
    assert DMMD(DMMD.Config()).phases() == [
        Phase("student", ("student",), ramped=("student",)),
        Phase("auxiliary", ("auxiliary",)),
    ]

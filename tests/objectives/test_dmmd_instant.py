"""D-MMD in parameter space against plain float64 references, and against the gradient of the norm that it minimises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from enumerable_denoisers import L, Table, TimedOracle, V, drawn_by, row
from torch import Generator, Tensor

from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.derivative import Derivative, directional_derivative
from fewstep.objectives import dmmd_instant
from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.objectives.dmmd_instant import DMMDInstant
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.testing.objectives import check_objective

TRAIN = Phase("train", ("student",))


@pytest.fixture
def directions(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Tensor]]:
    """Every nu that is taken."""
    taken: list[Mapping[str, Tensor]] = []

    def spy(denoiser: Denoiser, direction: Mapping[str, Tensor], x_t: Tensor, t: Tensor, cond: Condition) -> Derivative:
        taken.append(direction)
        return directional_derivative(denoiser, direction, x_t, t, cond)

    monkeypatch.setattr(dmmd_instant, "directional_derivative", spy)
    return taken


def make(process_name: str, seed: int = 0) -> tuple[StepContext, Table, Table]:
    process = PROCESSES.build(process_name, vocab_size=V)
    teacher, student = Table(process, 0).requires_grad_(False), Table(process, 1)
    streams = {name: Generator().manual_seed(seed + i) for i, name in enumerate(("time", "noise", "sample"))}
    return (
        StepContext({"teacher": teacher, "student": student}, process, streams, torch.device("cpu")),
        teacher,
        student,
    )


def objective(**settings: object) -> DMMDInstant:
    """Without preconditioner and scale, unless asked for."""
    return DMMDInstant(DMMDInstant.Config(**{"k": 3, "preconditioner": "none", "step_size": 1.0, **settings}))


def data(count: int, seed: int = 7) -> Tensor:
    return torch.randint(V, (count, L), generator=Generator().manual_seed(seed))


def predicted(process: str, z: Tensor) -> list[tuple[int, int]]:
    """Rows and positions that are predicted."""
    return [(b, i) for b in range(len(z)) for i in range(L) if process == "uniform" or z[b, i] == V]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("process", "target"), [("masked", "auto"), ("masked", "hard"), ("uniform", "auto")])
def test_direction(process: str, target: str, centred: bool, directions: list[Mapping[str, Tensor]]) -> None:
    """nu is the gradient of w CE on the first half's samples, less that on its real data."""
    ctx, teacher, student = make(process)
    drawn, x0 = drawn_by(ctx), data(64)
    objective(target=target, centred=centred, weighting="elbo").loss(TRAIN, Batch(x0), ctx)
    (z_t, _), expected = student.calls[0], torch.zeros_like(teacher.logits)
    for sign, call in [(1, 0), (-1, 1)][: 1 + centred]:
        z_s, s = teacher.calls[call]
        weights = ctx.process.schedule.elbo_weight(s).tolist()
        for b, i in predicted(process, z_s):
            wanted = [float(c == int(drawn[call][b, i])) for c in range(V)]
            if call == 0 and process == "masked" and target == "auto":
                wanted = row(student, z_t[b].tolist(), i)
            q, index = row(teacher, z_s[b].tolist(), i), int(teacher.index(z_s[b : b + 1]))
            for c in range(V):
                expected[index, i, c] += sign * weights[b] / (32 * L) * (q[c] - wanted[c])
    assert not centred or torch.equal(drawn[1], x0[:32])
    torch.testing.assert_close(directions[0]["logits"], expected, rtol=1e-5, atol=1e-9)
    assert teacher.logits.grad is None
    assert not teacher.logits.requires_grad


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_student_loss_and_gradient(process: str, directions: list[Mapping[str, Tensor]]) -> None:
    """Against the teacher's log-probabilities a little ahead along nu and a little behind."""
    ctx, teacher, student = make(process)
    out = objective(weighting="elbo", step_size=0.5).loss(TRAIN, Batch(data(64)), ctx)
    (z_t, _), (z_s, s), h = student.calls[1], teacher.calls[2], 1e-5
    ahead, behind = Table(ctx.process, 0), Table(ctx.process, 0)
    ahead.logits.data.add_(directions[0]["logits"], alpha=h)
    behind.logits.data.sub_(directions[0]["logits"], alpha=h)
    expected, gradient = 0.0, torch.zeros_like(student.logits)
    weights = ctx.process.schedule.elbo_weight(s).tolist()
    for b, i in predicted(process, z_s):
        p, state = row(student, z_t[b].tolist(), i), z_s[b].tolist()
        r = [-math.log(u / v) / (2 * h) for u, v in zip(row(ahead, state, i), row(behind, state, i), strict=True)]
        mean = sum(pc * rc for pc, rc in zip(p, r, strict=True))
        share = 0.5 * weights[b] / (32 * L)
        expected += share * mean
        index = int(student.index(z_t[b : b + 1]))
        for c in range(V):
            gradient[index, i, c] += share * p[c] * (r[c] - mean)
    assert float(out.loss.detach()) == pytest.approx(expected, rel=1e-5)
    out.loss.backward()
    torch.testing.assert_close(student.logits.grad, gradient, rtol=1e-5, atol=1e-9)


def test_adam_preconditions_as_adam_steps(directions: list[Mapping[str, Tensor]]) -> None:
    """nu of the third batch is the third step of torch's Adam without momentum, at rate 1."""
    _, teacher, _ = make("masked")
    adapted = objective(preconditioner="adam", beta=0.9)
    parameter = torch.nn.Parameter(torch.zeros_like(teacher.logits))
    adam = torch.optim.Adam([parameter], lr=1.0, betas=(0.0, 0.9), eps=1e-12)
    for seed in range(3):
        ctx, teacher, _ = make("masked", seed)
        objective().loss(TRAIN, Batch(data(32)), ctx)
        parameter.grad, before = directions[-1]["logits"].clone(), parameter.detach().clone()
        adam.step()
        adapted.loss(TRAIN, Batch(data(32)), make("masked", seed)[0])
        torch.testing.assert_close(directions[-1]["logits"], before - parameter.detach(), rtol=1e-6, atol=1e-9)


def test_resumes_exactly_with_a_preconditioner() -> None:
    check_objective({"type": "dmmd_instant", "preconditioner": "adam", "step_size": 1e-3})


# ------------------------------------------------------------------ what is minimised


def levels(ctx: StepContext, k: int, points: int = 300) -> dict[tuple[str, ...], float]:
    """Chance of each pattern of clean, revealed and masked tokens in z_t -> z_s, by quadrature over s and t."""
    middle = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    s = 1e-3 + (1 - 1e-3) * middle[:, None]
    t = (s + middle[None] / k).clamp(max=1)
    alpha_s, alpha_t = ctx.process.schedule.alpha(s), ctx.process.schedule.alpha(t)
    chance = {"clean": alpha_t, "revealed": alpha_s - alpha_t, "masked": (1 - alpha_s).expand_as(t)}
    return {
        states: float(torch.stack([chance[state] for state in states]).prod(0).mean())
        for states in itertools.product(chance, repeat=L)
    }


def moment(teacher: Table, student: Table, live: Tensor, law: Tensor, patterns: dict[tuple[str, ...], float]) -> Tensor:
    """E_student[grad L] - E_data[grad L] over all z_t and z_s; `live` are the student's logits in L but not in z_s."""
    total, mask = torch.zeros_like(teacher.logits), V
    for (states, chance), x0 in itertools.product(patterns.items(), itertools.product(range(V), repeat=L)):
        z_t = [x if state == "clean" else mask for x, state in zip(x0, states, strict=True)]
        at = int(student.index(torch.tensor([z_t])))
        p, frozen = live[at].softmax(-1), student.logits.detach()[at].softmax(-1)
        for x in itertools.product(range(V), repeat=L):
            z_s = [{"clean": a, "revealed": b, "masked": mask}[c] for a, b, c in zip(x0, x, states, strict=True)]
            share = chance * float(law[x0]) * math.prod(float(frozen[i, x[i]]) for i in range(L)) / L
            index = int(teacher.index(torch.tensor([z_s])))
            q = teacher.logits[index].softmax(-1)
            real = int(teacher.index(torch.tensor([[b if b == mask else a for a, b in zip(x0, z_s, strict=True)]])))
            for i in (i for i in range(L) if states[i] == "masked"):
                clean = torch.eye(V, dtype=torch.float64)[x0[i]]
                for row_of, gradient in ((index, q[i] - p[i]), (real, clean - teacher.logits[real, i].softmax(-1))):
                    where = torch.zeros_like(total[..., :1])
                    where[row_of, i] = share
                    total = total + where * gradient
    return total


def test_minimises_the_squared_norm_of_the_moment() -> None:
    """The mean gradient is that of 1/2 |m|^2, everything enumerated; z_s keeps its law, as in all of D-MMD."""
    ctx, teacher, student = make("masked")
    law = torch.rand(V, V, generator=Generator().manual_seed(3), dtype=torch.float64)
    law /= law.sum()
    live = student.logits.detach().clone().requires_grad_()
    norm = moment(teacher, student, live, law, levels(ctx, k=2)).square().sum() / 2
    (exact,) = torch.autograd.grad(norm, live)
    found = []
    rng = Generator().manual_seed(11)
    for _ in range(30):
        ids = torch.multinomial(law.flatten(), 20_000, replacement=True, generator=rng)
        loss = objective(k=2).loss(TRAIN, Batch(torch.stack((ids // V, ids % V), 1)), ctx).loss
        found.append(torch.autograd.grad(loss, student.logits)[0])
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(len(found))
    assert exact.abs().max() > 30 * error.max(), "the test could tell"
    # 60 entries, 29 degrees of freedom: one in 10^4 runs of other seeds would fail.
    assert ((mean - exact).abs() <= 6 * error + 1e-6).all(), (mean - exact).abs().max()


def gradient_at(process: str, *, teacher_bias: float, student_bias: float, **settings: object) -> tuple[Tensor, Tensor]:
    """Mean gradient where teacher and student are E[x | z] of one token but for a bias, in standard errors; and it."""
    ctx, _, _ = make(process)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    roles = {name: TimedOracle(ctx.process, law) for name in ("teacher", "student")}
    for name, bias in (("teacher", teacher_bias), ("student", student_bias)):
        roles[name].bias.data[:, 0] += bias
    ctx.roles, rng, found = dict(roles), Generator().manual_seed(5), []
    for _ in range(30):
        x0 = torch.multinomial(law, 10_000, replacement=True, generator=rng)[:, None]
        loss = objective(k=4, **settings).loss(TRAIN, Batch(x0), ctx).loss
        found.append(torch.autograd.grad(loss, roles["student"].bias)[0])
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(len(found))
    return mean / error.clamp_min(1e-12), mean


@pytest.mark.medium
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_fixed_point(process: str) -> None:
    """A student that draws the data's law does not move in expectation, whatever the teacher thinks, if centred."""
    for bias, centred in ((0.0, True), (1.0, True), (0.0, False)):
        deviation, _ = gradient_at(process, teacher_bias=bias, student_bias=0.0, centred=centred)
        # 9 entries, 29 degrees of freedom: one in 10^4 runs of other seeds would fail.
        assert deviation.abs().max() < 5.5, (bias, centred)


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_away_from_the_fixed_point(process: str) -> None:
    """Proof that the test above can fail: a student that is wrong, and a teacher that is, when not centred."""
    deviation, gradient = gradient_at(process, teacher_bias=0.0, student_bias=1.0)
    assert gradient[:, 0].sum() > 0, "descent lowers the logit that is too high"
    assert deviation.abs().max() > 20
    deviation, gradient = gradient_at(process, teacher_bias=1.0, student_bias=0.0, centred=False)
    assert gradient[:, 0].sum() < 0, "descent follows the teacher"
    assert deviation.abs().max() > 20

"""Discrete consistency: coupled pairs, Duo's schedule, and where the objective rests, on laws that are known."""

from __future__ import annotations

import math

import pytest
import torch
from enumerable_denoisers import ExactRows, TimedOracle, V
from noised_laws import level
from torch import Generator, Tensor

from fewstep.denoisers.base import Denoiser
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.objectives.consistency import Consistency, step_on_path
from fewstep.objectives.parts.gaussian_dual import induced_alpha
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.testing.objectives import check_objective
from fewstep.testing.statistics import assert_same_distribution

TRAIN = Phase("train", ("student",))
LAW = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


def build(**config: object) -> Consistency:
    objective = OBJECTIVES.build({"type": "consistency", **config})
    assert isinstance(objective, Consistency)
    return objective


def pairs(process: DiscreteProcess, x: int, t: float, s: float, many: int) -> tuple[Tensor, Tensor]:
    """Coupled z_t and z_s of one clean token, LongTensor [many]."""
    rng = Generator().manual_seed(5)
    x0 = torch.full((many, 1), x)
    times = [torch.full((many,), value, dtype=torch.float64) for value in (t, s)]
    z_t = process.corrupt(x0, times[0], generator=rng).x_t
    return z_t[:, 0], step_on_path(process, x0, z_t, *times, generator=rng)[:, 0]


@pytest.mark.parametrize("name", ["masked", "uniform"])
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.6), (1.0, 0.5), (0.3, 0.0)])
def test_both_ends_of_a_path_have_the_marginals_of_the_process(name: str, t: float, s: float) -> None:
    process, x = PROCESSES.build(name, vocab_size=V), 1
    z_t, z_s = pairs(process, x, t, s, many=40_000)
    clean = torch.nn.functional.one_hot(torch.tensor([[x]]), V).double()
    noise = torch.full((process.num_states,), 1 / V, dtype=torch.float64)
    if process.carry_over:
        noise = torch.eye(process.num_states, dtype=torch.float64)[-1]
    for z, time in ((z_t, t), (z_s, s)):
        alpha = level(process.schedule, time)
        law = (1 - alpha) * noise
        law[:V] += alpha * clean[0, 0]
        assert_same_distribution(torch.bincount(z, minlength=process.num_states), law, f"marginal at {time}")
    assert bool((z_s[z_t == x] == x).all()), "what is clean stays clean"
    assert bool((z_s[z_s != x] == z_t[z_s != x]).all()), "noise is shared"


def test_pairs_are_those_of_one_gaussian_noise() -> None:
    """argmax(a onehot(x) + s e) at two levels with the same e, against the two numbers that are drawn here."""
    many, x, gammas = 60_000, 2, torch.tensor([0.5, -1.5], dtype=torch.float64)
    rng = Generator().manual_seed(0)
    e = torch.randn(many, V, generator=rng, dtype=torch.float64)
    means = torch.exp(-0.5 * gammas)
    ends = [(e + mean * torch.nn.functional.one_hot(torch.tensor(x), V)).argmax(1) for mean in means]
    process = PROCESSES.build("uniform", vocab_size=V)
    t, s = (float(process.schedule.time_of(alpha)) for alpha in induced_alpha(gammas, V))
    z_t, z_s = pairs(process, x, t, s, many)
    joint = torch.bincount(ends[0] * V + ends[1], minlength=V * V).double()
    possible = joint > 0
    assert set((z_t * V + z_s).unique().tolist()) <= set(possible.nonzero()[:, 0].tolist())
    ours = torch.bincount(z_t * V + z_s, minlength=V * V).double()
    spread = (joint + ours).clamp_min(1).sqrt()
    assert float(((joint - ours) / spread).abs().max()) < 4


@pytest.mark.parametrize("gamma", [-4.0, -1.75, -1.0, 0.5])
def test_the_induced_schedule_is_the_integral(gamma: float) -> None:
    """Two symbols: P = Phi(a / (s sqrt 2)) in closed form. Many: quadrature on another grid, in plain numbers."""
    mean = math.exp(-0.5 * gamma)
    (alpha,) = induced_alpha(torch.tensor([gamma], dtype=torch.float64), 2).tolist()
    assert alpha == pytest.approx(math.erf(mean / 2), abs=1e-12)

    def cdf(z: float) -> float:
        return 0.5 * math.erfc(-z / math.sqrt(2))

    for size in (10, 50_257):
        h = 0.003
        grid = [-9 + h * (i + 0.5) for i in range(round(18 / h))]
        wins = sum(h * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * cdf(z + mean) ** (size - 1) for z in grid)
        (alpha,) = induced_alpha(torch.tensor([gamma], dtype=torch.float64), size).tolist()
        assert alpha == pytest.approx((size * wins - 1) / (size - 1), abs=1e-9)


def context(process: DiscreteProcess, **roles: Denoiser) -> StepContext:
    streams = {name: Generator().manual_seed(seed) for seed, name in enumerate(("time", "noise", "sample"))}
    return StepContext(dict(roles), process, streams, torch.device("cpu"))


@pytest.mark.parametrize("step", [0.05, 0.4])
def test_with_masks_the_exact_posterior_is_where_it_rests(step: float) -> None:
    """E[x | z_t] is the mean of E[x | z_s] along nested masks, and of the token itself where it shows: forward KL has
    no gradient there, for any step."""
    process = PROCESSES.build("masked", vocab_size=V)
    student, teacher = TimedOracle(process, LAW), TimedOracle(process, LAW)
    x0 = torch.multinomial(LAW, 200_000, replacement=True, generator=Generator().manual_seed(3))[:, None]
    objective = build(divergence="forward_kl", first_step=step, rounds=1)
    out = objective.loss(TRAIN, Batch(x0), context(process, student=student, teacher=teacher))
    (gradient,) = torch.autograd.grad(out.loss, student.bias)
    assert float(gradient[-1].abs().max()) < 0.005
    uniform_teacher = TimedOracle(process, torch.full((V,), 1 / V, dtype=torch.float64))
    out = objective.loss(TRAIN, Batch(x0), context(process, student=student, teacher=uniform_teacher))
    (gradient,) = torch.autograd.grad(out.loss, student.bias)
    assert float(gradient[-1].abs().max()) > 0.05, "another teacher pulls"


def test_on_shared_noise_the_exact_posterior_is_not_where_it_rests() -> None:
    """Uniform process: z_t tells more about x than z_s does on a path with shared noise, so the mean of the teacher's
    answers is not E[x | z_t], however exact the teacher. The bias shrinks with the step."""
    process = PROCESSES.build("uniform", vocab_size=V)
    t, biases = 0.8, []
    for s in (0.4, 0.79):
        exact, mean = torch.zeros(V, V, dtype=torch.float64), torch.zeros(V, V, dtype=torch.float64)
        teacher = TimedOracle(process, LAW)
        states = torch.arange(V)[:, None]
        rows = teacher(states, torch.full((V,), s, dtype=torch.float64)).log_probs().detach().exp()
        for x in range(V):
            p_t, p_s = (level(process.schedule, time) * (1 - 1 / V) + 1 / V for time in (t, s))
            for z in range(V):
                weight = LAW[x] * (p_t if z == x else (1 - p_t) / (V - 1))
                turns = 0.0 if z == x else (p_s - p_t) / (1 - p_t)
                exact[z, x] += weight
                mean[z] += weight * (turns * rows[x] + (1 - turns) * rows[z])
        total = exact.sum(1, keepdim=True)
        biases.append(float(((mean - exact) / total).abs().max()))
    assert biases[0] > 0.02
    assert biases[1] < biases[0]


@pytest.mark.parametrize("times", ["uniform", pytest.param("gaussian", marks=pytest.mark.slow)])
@pytest.mark.parametrize("output", ["leave_one_out", "x_mean"])
def test_leave_one_out_networks_are_compared_by_what_they_predict(output: str, times: str) -> None:
    """Duo's parametrisation: the rows of one token are the same at both ends of a path, so its bias is 0, and any step
    has no gradient at the exact teacher. The rows of E[x | z_t] are pulled away."""
    process = PROCESSES.build("uniform", vocab_size=V)
    assert isinstance(process, DiscreteProcess)
    student, teacher = (ExactRows(process, LAW, output) for _ in range(2))
    x0 = torch.multinomial(LAW, 20_000, replacement=True, generator=Generator().manual_seed(3))[:, None]
    objective = build(divergence="forward_kl", times=times, gamma=(-3.0, 6.0), first_step=0.4, rounds=1)
    ctx = context(process, student=student, teacher=teacher)
    (gradient,) = torch.autograd.grad(objective.loss(TRAIN, Batch(x0), ctx).loss, student.bias)
    assert (float(gradient.abs().max()) < 1e-12) == (output == "leave_one_out")
    other = context(process, student=student, teacher=ExactRows(process, LAW.flip(0), output))
    (gradient,) = torch.autograd.grad(objective.loss(TRAIN, Batch(x0), other).loss, student.bias)
    assert float(gradient.abs().max()) > 0.01, "another teacher pulls"


def test_steps_are_those_of_the_gaussian_path_if_asked() -> None:
    process = PROCESSES.build("uniform", vocab_size=V)
    objective = build(times="gaussian", first_step=0.25, rounds=1, gamma=(-4.0, 2.0))
    t, s = objective.pair(1000, context(process, student=TimedOracle(process, LAW)))
    assert bool((t > s).all())
    low, high = (float(process.schedule.time_of(a)) for a in induced_alpha(torch.tensor([-4.0, 2.0]), V))
    assert float(s.min()) == pytest.approx(low, abs=0.02)
    assert float(t.max()) == pytest.approx(high, abs=1e-6)


def test_a_teacher_that_follows_the_student() -> None:
    process = PROCESSES.build("masked", vocab_size=V)
    student, teacher = TimedOracle(process, LAW), TimedOracle(process, LAW)
    with torch.no_grad():
        student.bias.fill_(1.0)
    ctx = context(process, student=student, teacher=teacher)
    build(teacher_decay=0.9).after_step(TRAIN, ctx)
    assert float(teacher.bias.mean()) == pytest.approx(0.1)


@pytest.mark.medium
@pytest.mark.parametrize("changes", [{"rounds": 4, "first_step": 0.05}, {"teacher_decay": 0.5}])
def test_a_run_that_stops_in_the_middle_of_a_round_resumes_exactly(changes: dict[str, float]) -> None:
    check_objective({"type": "consistency", **changes}, steps=7)

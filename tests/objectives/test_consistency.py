"""Discrete consistency: coupled pairs, Duo's schedule, and where the objective rests, on laws that are known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from enumerable_denoisers import ExactRows, TimedOracle, V
from noised_laws import level
from pydantic import ValidationError
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.denoisers.exact import exact_denoiser
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.objectives.consistency import Consistency, step_on_path
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, Corrupted, DiscreteProcess
from fewstep.runtime.streams import Randomness
from fewstep.schedules.gaussian_dual import induced_alpha, keep_alpha, winning
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


@pytest.mark.parametrize("size", [2, 8, 64])
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_pairs_are_those_of_one_gaussian_noise(name: str, size: int) -> None:
    """a onehot(x) + s e at two levels with the same e, against the two numbers that are drawn here.

    Symbols are the largest coordinates; with masks all but x are hidden, which is MCD's coupling.
    """
    many, x = 100_000, size // 2
    gammas = torch.tensor([0.5, -1.5], dtype=torch.float64)
    e = torch.randn(many, size, generator=Generator().manual_seed(0))
    clean = torch.nn.functional.one_hot(torch.tensor(x), size)
    process = PROCESSES.build(name, vocab_size=size)
    ends = [(e + float(torch.exp(-0.5 * gamma)) * clean).argmax(1) for gamma in gammas]
    level = induced_alpha
    if process.carry_over:
        ends, level = [z.masked_fill(z != x, size) for z in ends], keep_alpha
    t, s = (float(process.schedule.time_of(alpha)) for alpha in level(gammas, size))
    z_t, z_s = pairs(process, x, t, s, many)
    states = process.num_states
    gaussian, ours = (torch.bincount(a * states + b, minlength=states**2) for a, b in (ends, (z_t, z_s)))
    assert set(ours.nonzero()[:, 0].tolist()) <= set(gaussian.nonzero()[:, 0].tolist()), "no other pair is possible"
    # Pairs of noise and x by what they show of x: at both ends, at s alone, at neither.
    shown = [(z == x).long() for z in (z_t, z_s)]
    share = winning(torch.exp(-0.5 * gammas), size)
    nested = torch.stack((1 - share[1], share[1] - share[0], share[0] * 0, share[0]))
    for a, b in (shown, [(z == x).long() for z in ends]):
        assert_same_distribution(torch.bincount(a * 2 + b, minlength=4), nested, f"what {name} pairs show")
    seen = gaussian > 0
    spread = (gaussian + ours)[seen].double().sqrt()
    assert float(((gaussian - ours)[seen] / spread).abs().max()) < 4.5


def test_steps_of_masks_on_the_gaussian_path_are_those_of_its_levels() -> None:
    process = PROCESSES.build("masked", vocab_size=V)
    objective = build(times="gaussian", first_step=0.25, rounds=1, gamma=(-4.0, 2.0))
    t, s = objective.pair(1000, context(process, student=TimedOracle(process, LAW)))
    assert bool((t > s).all())
    assert float(process.schedule.alpha(t).min()) == pytest.approx(float(keep_alpha(torch.tensor(2.0), V)), abs=1e-6)
    assert float(process.schedule.alpha(t).min()) > 1 / V, "masks never hide all tokens of so few symbols"


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


class Weighted(StepContext):
    """Expectations over rows of known probabilities in the place of means."""

    weights: Tensor

    def mean(self, values: Tensor, where: Tensor | None = None, *, batch: Batch | None = None) -> Tensor:
        assert where is not None
        return (self.weights[:, None] * values * where).sum()


class Biased(DenoiserAround):
    """A denoiser with a bias for each state and position on its logits, to take gradients at."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        states = denoiser.process.num_states
        self.bias = torch.nn.Parameter(
            torch.zeros(states**denoiser.length, denoiser.length, denoiser.process.vocab_size, dtype=torch.float64)
        )

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        inner = self.denoiser.predict(x_t, t, s, cond, generator)
        index = sum(x_t[:, i] * self.process.num_states**i for i in range(self.length))
        table = inner.dense_probs().clamp_min(1e-300).log() + self.bias[index]
        return TablePrediction(table.log_softmax(-1), inner.known, inner.where)


@pytest.mark.parametrize(("divergence", "rests"), [("forward_kl", True), ("reverse_kl", False)])
def test_an_exact_teacher_of_a_markov_source_has_no_gradient(
    divergence: str, rests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expected gradient over all sequences and pairs of masks: 0 with forward KL, and not with reverse KL, which
    rests at the geometric mean of the teacher's answers."""
    source = Markov(Markov.Config(vocab_size=2, length=3, successors=2, size=8))
    process = PROCESSES.build("masked", vocab_size=2)
    teacher = exact_denoiser(source, process)
    student = Biased(exact_denoiser(source, process))
    level_t, level_s = 0.3, 0.6
    sequences = torch.tensor(list(itertools.product(range(2), repeat=3)))
    fates = torch.tensor(list(itertools.product(range(3), repeat=3)))  # shown at both, at s alone, at neither
    chances = torch.tensor([level_t, level_s - level_t, 1 - level_s], dtype=torch.float64)
    x0 = sequences.repeat_interleave(len(fates), 0)
    fate = fates.repeat(len(sequences), 1)
    z_t, z_s = x0.masked_fill(fate > 0, 2), x0.masked_fill(fate > 1, 2)
    t, s = (process.schedule.time_of(torch.full((len(x0),), a, dtype=torch.float64)) for a in (level_t, level_s))
    monkeypatch.setattr(process, "corrupt", lambda *args, **kwargs: Corrupted(z_t, z_t == 2))
    monkeypatch.setattr("fewstep.objectives.consistency.step_on_path", lambda *args, **kwargs: z_s)
    objective = build(divergence=divergence)
    monkeypatch.setattr(objective, "pair", lambda *args: (t, s))
    plain = context(process, student=student, teacher=teacher)
    ctx = Weighted(plain.roles, process, plain.generators, plain.device)
    ctx.weights = source.log_likelihood(x0).exp() * chances[fate].prod(1)
    assert float(ctx.weights.sum()) == pytest.approx(1, abs=1e-12)
    (gradient,) = torch.autograd.grad(objective.loss(TRAIN, Batch(x0), ctx).loss, student.bias)
    assert (float(gradient.abs().max()) < 1e-6) == rests
    if rests:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_a_teacher_whose_temperature_falls_over_rounds() -> None:
    objective = build(teacher_temperature=[0.96, 0.75], rounds=4)
    assert [objective.config.temperature(n) for n in range(4)] == pytest.approx([0.96, 0.89, 0.82, 0.75])
    assert build(teacher_temperature=[0.9, 0.5], rounds=1).config.temperature(0) == 0.9
    assert build().config.temperature(3) == 1
    with pytest.raises(ValidationError, match="teacher_temperature: must be above 0"):
        build(teacher_temperature=[0.9, 0.0])


@pytest.mark.parametrize(("step", "temperature"), [(0, 0.9), (75, 0.5)])
def test_a_shaped_teacher_is_another_teacher(step: int, temperature: float) -> None:
    """A falling temperature and a floor, against a teacher whose rows were shaped by hand."""
    process = PROCESSES.build("masked", vocab_size=V)
    x0 = torch.multinomial(LAW, 500, replacement=True, generator=Generator().manual_seed(3))[:, None]
    by_hand = (LAW ** (1 / temperature) / (LAW ** (1 / temperature)).sum()).clamp_min(0.2)
    losses = []
    for law, changes in ((LAW, {"teacher_temperature": [0.9, 0.5], "teacher_floor": 0.2}), (by_hand, {})):
        roles = {"student": TimedOracle(process, LAW), "teacher": TimedOracle(process, law / law.sum())}
        ctx = replace(context(process, **roles), step=step, steps=100)
        losses.append(build(rounds=2, **changes).loss(TRAIN, Batch(x0), ctx).loss)
    torch.testing.assert_close(*losses)


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
@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 4, "first_step": 0.05, "times": "gaussian", "teacher_temperature": [0.96, 0.75]},
        {"teacher_decay": 0.5},
    ],
)
def test_a_run_that_stops_in_the_middle_of_a_round_resumes_exactly(changes: dict[str, object]) -> None:
    check_objective({"type": "consistency", **changes}, steps=7)

"""DiDi-Instruct: the policy gradient against the integral KL it stands for, its parts by enumeration, and groups."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from enumerable_denoisers import L, Table, V
from torch import Generator, Tensor, nn

from fewstep.core.errors import RecipeError, UserError
from fewstep.denoisers.base import NOTHING, Network
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.objectives.didi import DiDi, draw_trajectory, log_ratio
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.testing.objectives import check_objective
from fewstep.training.launch import fit
from fewstep.training.trainer import Trainer

MASK = V
SMALL = [
    "data.vocab_size=5",
    "data.length=8",
    "backbone.width=16",
    "backbone.depth=2",
    "train.steps=4",
    "train.batch_size=8",
    "objective.head_start=0",
]
STUDENT, DISCRIMINATOR = Phase("student", ("student",)), Phase("discriminator", ("discriminator",))
CLEAN = [list(x) for x in itertools.product(range(V), repeat=L)]
STATES = [list(z) for z in itertools.product(range(V + 1), repeat=L)]
TAU, T = 0.6, 0.3


class ScoreTable(NetworkClassifier):
    """Two scores for every state of the sequence: the freest discriminator there is."""

    def __init__(self, process: DiscreteProcess) -> None:
        Network.__init__(self, process, L)
        self.scores = nn.Parameter(torch.zeros(process.num_states**L, 2, dtype=torch.float64))

    def index(self, x_t: Tensor) -> Tensor:
        return sum(x_t[:, i] * self.process.num_states**i for i in range(L))  # type: ignore[return-value]

    def log_probs(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        return self.scores[self.index(x_t)].log_softmax(-1)


def teacher_run(folder: Path) -> Path:
    """Run folder of a teacher that fits `SMALL`."""
    recipe = load_recipe("markov-teacher", [*SMALL[:-1], "train.steps=1"])
    fit(recipe, RunDir.create("teacher", folder / "teacher"))
    return folder / "teacher"


def discriminating(changes: list[str], folder: Path) -> Trainer:
    """A training of `markov-didi` that has not begun."""
    loaded = load_recipe("markov-didi", changes, teacher=str(teacher_run(folder)))
    return Trainer.from_recipe(loaded.recipe, RunDir.create("didi", folder / "didi"), echo=lambda line: None)


def make() -> tuple[StepContext, Table, Table, ScoreTable]:
    """A context, student, teacher and discriminator."""
    process = PROCESSES.build("masked", vocab_size=V)
    student, teacher, discriminator = Table(process, 1), Table(process, 0), ScoreTable(process)
    streams = {name: Generator().manual_seed(seed) for seed, name in enumerate(("time", "noise", "sample"))}
    roles = {"student": student, "teacher": teacher, "discriminator": discriminator}
    return StepContext(roles, process, streams, torch.device("cpu")), student, teacher, discriminator


def build(**config: object) -> DiDi:
    objective = OBJECTIVES.build({"type": "didi", "jeffreys": 0.0, "entropy": 0.0, **config})
    assert isinstance(objective, DiDi)
    return objective


def noising(x: list[int], z: list[int], t: float) -> float:
    """q(z_t | x) of the linear schedule, by hand."""
    chances = [t if b == MASK else (1 - t) * (a == b) for a, b in zip(x, z, strict=True)]
    return chances[0] * chances[1]


def two_steps(student: Table, tau: float) -> Tensor:
    """p(x) of a student that goes from masks to tau to clean, for all of CLEAN, with gradients."""
    first = student.logits[student.index(torch.tensor([[MASK, MASK]]))][0].softmax(-1)
    found = []
    for x in CLEAN:
        total = torch.zeros((), dtype=torch.float64)
        for kept in itertools.product([False, True], repeat=L):  # which tokens are revealed at tau
            z = [v if shown else MASK for v, shown in zip(x, kept, strict=True)]
            second = student.logits[student.index(torch.tensor([z]))][0].softmax(-1)
            term = torch.ones((), dtype=torch.float64)
            for i, (v, shown) in enumerate(zip(x, kept, strict=True)):
                term = term * ((1 - tau) * first[i, v] if shown else tau * second[i, v])
            total = total + term
        found.append(total)
    return torch.stack(found)


def noised(law: Tensor, t: float) -> Tensor:
    """Law of z_t over STATES of a law over CLEAN."""
    kernel = torch.tensor([[noising(x, z, t) for z in STATES] for x in CLEAN], dtype=torch.float64)
    return law @ kernel


def real_law() -> Tensor:
    return torch.rand(len(CLEAN), generator=Generator().manual_seed(5), dtype=torch.float64).add(0.1).softmax(0)


def at_optimum(discriminator: ScoreTable, real: Tensor, made: Tensor) -> None:
    """Scores log q of both laws of z_t over STATES."""
    where = discriminator.index(torch.tensor(STATES))
    discriminator.scores.data[where] = torch.stack((made, real), 1).log().detach()


def gradient_of_kl(student: Table, tau: float, t: float) -> Tensor:
    made, real = noised(two_steps(student, tau), t), noised(real_law(), t)
    (gradient,) = torch.autograd.grad((made * (made / real).log()).sum(), student.logits)
    return gradient


def fix_times(objective: DiDi, ctx: StepContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """All trajectories go through TAU, all of their samples are noised to T."""
    times = torch.tensor([[1.0], [TAU], [0.0]], dtype=torch.float64)
    monkeypatch.setattr(objective, "times", lambda count, _: times.expand(-1, count))
    monkeypatch.setattr(ctx, "sample_time", lambda count, **_: torch.full((count,), T, dtype=torch.float64))


def test_the_policy_gradient_is_that_of_the_integral_kl() -> None:
    """Enumerated over z_tau, x and z_t with the exact ratio as the reward; E[grad log q] adds nothing."""
    ctx, student, _, discriminator = make()
    made, real = noised(two_steps(student, TAU), T), noised(real_law(), T)
    at_optimum(discriminator, real, made)
    states = torch.tensor(STATES)
    reward = log_ratio(states, torch.full((len(STATES),), T), NOTHING, ctx)
    torch.testing.assert_close(reward, (real / made).log().detach())
    kernel = torch.tensor([[noising(x, z, T) for z in STATES] for x in CLEAN], dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    for kept in itertools.product([False, True], repeat=L):
        x = torch.tensor(CLEAN)
        shown = torch.tensor(kept).expand_as(x)
        z, one = torch.where(shown, x, MASK), torch.ones(len(CLEAN))
        log_p = -student(torch.full_like(x, MASK), one).nll(x, where=shown).sum(1)
        log_p = log_p - student(z, TAU * one).nll(x, where=~shown).sum(1)
        which = (1 - TAU) ** sum(kept) * TAU ** (L - sum(kept))
        chances = which * log_p.exp().detach()
        loss = loss - (chances[:, None] * kernel * reward * log_p[:, None]).sum()
    (got,) = torch.autograd.grad(loss, student.logits)
    expected = gradient_of_kl(student, TAU, T)
    assert float(expected.abs().max()) > 1e-2
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_the_loss_estimates_that_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many groups of four: a mean over the group that holds the sample itself leaves 3/4 of it, and the loss is per
    token."""
    ctx, student, _, discriminator = make()
    at_optimum(discriminator, noised(real_law(), T), noised(two_steps(student, TAU), T))
    objective = build(normalise=False)
    fix_times(objective, ctx, monkeypatch)
    out = objective.loss(STUDENT, Batch(torch.zeros(400_000, L, dtype=torch.long)), ctx)
    (got,) = torch.autograd.grad(out.loss, student.logits)
    torch.testing.assert_close(got * L * 4 / 3, gradient_of_kl(student, TAU, T), atol=0.003, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_log_p_is_that_of_what_was_drawn(steps: int) -> None:
    ctx, student, *_ = make()
    times = build(steps=steps).times(50, ctx)
    assert bool((times[:-1] >= times[1:]).all())
    made = draw_trajectory(times, NOTHING, ctx)
    states = [state for state, _ in student.calls] + [made.x]
    assert len(states) == steps + 1
    expected = torch.zeros(50, dtype=torch.float64)
    for before, after in itertools.pairwise(states):
        log_p = student.logits[student.index(before)].log_softmax(-1)
        for b, i in itertools.product(range(50), range(L)):
            if before[b, i] == MASK and after[b, i] != MASK:
                expected[b] += log_p[b, i, after[b, i]].detach()
            else:
                assert before[b, i] == after[b, i], "what is revealed stays"
    torch.testing.assert_close(made.log_p.detach(), expected)
    assert bool((made.x != MASK).all())
    assert bool((states[-2] == made.z).all())


def test_two_steps_draw_the_enumerated_law() -> None:
    ctx, student, *_ = make()
    many = 100_000
    x = draw_trajectory(torch.tensor([[1.0], [TAU], [0.0]]).expand(-1, many), NOTHING, ctx).x
    counts = torch.bincount(x[:, 0] * V + x[:, 1], minlength=V * V) / many
    torch.testing.assert_close(counts.double(), two_steps(student, TAU).detach(), atol=0.006, rtol=0)


def test_a_discriminator_that_cannot_tell_moves_nothing() -> None:
    ctx, student, *_ = make()
    for normalise in (False, True):
        out = build(normalise=normalise).loss(STUDENT, Batch(torch.zeros(64, L, dtype=torch.long)), ctx)
        (gradient,) = torch.autograd.grad(out.loss, student.logits)
        assert bool((gradient == 0).all())
        assert float(out.metrics["reward"]) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_discriminators_optimum_is_the_log_ratio(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss has no gradient, in the mean, where D mixes the laws by the smoothing; without it r = log q_T / q_S."""
    ctx, student, _, discriminator = make()
    made, real = noised(two_steps(student, TAU), T).detach(), noised(real_law(), T)
    kept, rest = 1 - smoothing / 2, smoothing / 2
    at_optimum(discriminator, kept * real + rest * made, rest * real + kept * made)
    objective = build(label_smoothing=smoothing)
    fix_times(objective, ctx, monkeypatch)
    many = 200_000
    data = torch.tensor(CLEAN)[torch.multinomial(real_law(), many, replacement=True, generator=Generator())]
    out = objective.loss(DISCRIMINATOR, Batch(data), ctx)
    (gradient,) = torch.autograd.grad(out.loss, discriminator.scores)
    assert float(gradient.abs().max()) < 2e-3
    states = torch.tensor(STATES)
    reward = log_ratio(states, torch.full((len(STATES),), T), NOTHING, ctx)
    exact = (real / made).log()
    if smoothing == 0:
        torch.testing.assert_close(reward, exact)
    assert bool((reward * exact >= -1e-12).all()), "smoothing keeps what is better"


def test_advantages_are_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = torch.randn(32, generator=Generator().manual_seed(0), dtype=torch.float64)
    groups = build(eps=1e-12).advantages(reward).view(8, 4)
    torch.testing.assert_close(groups.mean(1), torch.zeros(8, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(groups.std(1, correction=0), torch.ones(8, dtype=torch.float64))
    means = reward.view(8, 4).mean(1).repeat_interleave(4)
    torch.testing.assert_close(build(normalise=False).advantages(reward), reward - means)


def test_groups_share_times_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, student, _, discriminator = make()
    told: list[tuple[Tensor, Condition]] = []
    read, said = discriminator.log_probs, student.predict

    def spy(x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        told.append((t, cond))
        return read(x_t, t, cond)

    def also(x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None) -> object:
        told.append((t, cond))
        return said(x_t, t, s, cond, generator)

    monkeypatch.setattr(discriminator, "log_probs", spy)
    monkeypatch.setattr(student, "predict", also)
    labels = torch.arange(12)
    build().loss(STUDENT, Batch(torch.zeros(12, L, dtype=torch.long), Condition(labels)), ctx)
    assert len(told) == 3
    for times, cond in told:
        rows = times.view(3, 4).T
        assert bool((rows == rows[0]).all())
        assert cond.labels is not None
        assert cond.labels.tolist() == [0] * 4 + [4] * 4 + [8] * 4
    (start, _), (tau, _), (t, _) = told
    assert bool((start == 1).all())
    assert len({*tau.tolist(), *t.tolist()}) == 6, "each group has its own, of both kinds"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["process=uniform"], "trajectories are of masks that are revealed, and the uniform process has none"),
        (["train.batch_size=30"], "micro-batches of 30 cannot be split into groups of 4"),
    ],
)
def test_what_does_not_fit_is_refused(changes: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("markov-didi", changes, teacher=str(tmp_path))


def test_one_and_three_steps_keep_the_contract() -> None:
    check_objective({"type": "didi", "steps": 1, "discriminator_steps": 2, "weighting": "elbo"})
    check_objective({"type": "didi", "steps": 3, "group": 2, "normalise": False})


def test_only_the_last_blocks_of_the_discriminator_learn(tmp_path: Path) -> None:
    """Four updates of a student and its discriminator; every other weight of the discriminator is the teacher's."""
    changes = [*SMALL, "objective.trained_blocks=1", "objective.spectral_norm=true", "optim.weight_decay=0.1"]
    trainer = discriminating(changes, tmp_path)
    before = {name: weight.clone() for name, weight in trainer.roles["discriminator"].state_dict().items()}
    trainer.fit()
    changed = {
        name.removeprefix("backbone.")
        for name, weight in trainer.roles["discriminator"].state_dict().items()
        if not torch.equal(weight, before[name])
    }
    assert {name.split(".")[0] for name in changed} == {"blocks", "head"}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks")} == {"1"}


def test_spectral_norm_makes_the_head_lipschitz(tmp_path: Path) -> None:
    """Scores change at most as much as the hidden state, and by exactly that along the first singular vector."""
    discriminator = discriminating([*SMALL, "objective.spectral_norm=true"], tmp_path).roles["discriminator"]
    assert isinstance(discriminator, NetworkClassifier)
    weight = discriminator.backbone.head.weight
    assert isinstance(weight, Tensor)
    weight.data.mul_(37.0)
    direction = torch.linalg.svd(weight.detach()).Vh[:1]
    zero = discriminator.class_scores(torch.zeros_like(direction))
    torch.testing.assert_close((discriminator.class_scores(direction) - zero).norm(), torch.tensor(1.0))
    other = torch.nn.functional.normalize(torch.randn(100, weight.shape[1], generator=Generator().manual_seed(0)))
    assert float((discriminator.class_scores(other) - zero).norm(dim=1).max()) <= 1.0


def test_more_trained_blocks_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"objective\.trained_blocks: 4 blocks cannot learn.*has 2 in a row"):
        discriminating([*SMALL, "objective.trained_blocks=4"], tmp_path)

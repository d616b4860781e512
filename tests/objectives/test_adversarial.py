"""A discriminator on z_s and walks from noise, against enumeration of a small source."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from enumerable_denoisers import Table, TimedOracle, V, make
from torch import Generator, Tensor, nn

from fewstep.core.errors import RecipeError, UserError
from fewstep.denoisers.base import NOTHING
from fewstep.denoisers.critic import Critic
from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.objectives.dmmd import DMMD
from fewstep.objectives.matching.student_step import draw_step, student_step, walk
from fewstep.objectives.matching.times import StepTimes
from fewstep.objectives.parts.adversarial import check_networks, discriminator_loss
from fewstep.objectives.parts.shares import rows_of_share
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.processes.base import DiscreteProcess
from fewstep.recipe import parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runtime.ranks import Ranks
from fewstep.testing import check_objective

L, T, S = 2, 0.7, 0.4
MANY = 200_000
STUDENT, AUXILIARY = Phase("student", ("student",)), Phase("auxiliary", ("auxiliary",))


class Judge(Table):
    """A free denoiser with a free number log D / (1 - D) for each state."""

    def __init__(self, process: DiscreteProcess, seed: int, length: int) -> None:
        super().__init__(process, seed, length)
        self.scores = nn.Parameter(torch.zeros(process.num_states**length, dtype=torch.float64))

    def judge(
        self, x_t: Tensor, t: Tensor, s: Tensor | None = None, *, cond: Condition = NOTHING, trunk: bool = False
    ) -> tuple[Prediction, Tensor]:
        return self(x_t, t, s, cond=cond), self.score(x_t, t, s, cond=cond)

    def score(
        self, x_t: Tensor, t: Tensor, s: Tensor | None = None, *, cond: Condition = NOTHING, trunk: bool = False
    ) -> Tensor:
        return self.scores[self.index(x_t)]


class Source:
    """Sequences of a random law, noised to z_t at T and z_s at S, and a student's step between them; all enumerated."""

    def __init__(self, process_name: str) -> None:
        self.ctx, roles = make(process_name, L)
        self.student, self.process = roles["student"], roles["student"].process
        self.auxiliary = Judge(self.process, 5, L)
        self.ctx.roles = {**roles, "auxiliary": self.auxiliary}
        self.clean = torch.tensor(list(itertools.product(range(V), repeat=L)))
        self.states = torch.tensor(list(itertools.product(range(self.process.num_states), repeat=L)))
        self.law = torch.rand(len(self.clean), generator=Generator().manual_seed(3), dtype=torch.float64)
        self.law /= self.law.sum()

    def noised(self, t: float) -> Tensor:
        """q(z_t) of data, float64 [states]."""
        alpha = float(self.process.schedule.alpha(torch.tensor(t, dtype=torch.float64)))
        masked = self.process.carry_over
        total = torch.zeros(len(self.states), dtype=torch.float64)
        for weight, x in zip(self.law, self.clean, strict=True):
            same = (self.states == x).double()
            noise = (self.states == V).double() if masked else torch.full_like(same, 1 / V)
            total += weight * (alpha * same + (1 - alpha) * noise).prod(1)
        return total

    def stepped(self) -> Tensor:
        """q(z_s) of the student's step from data at T, with a gradient by its logits."""
        t, s = (torch.full((1,), time, dtype=torch.float64) for time in (T, S))
        symbols = self.process.num_states
        # rates[z_t, c, z_s] of one token
        rates = torch.stack(
            [
                torch.stack([self.process.posterior_probs(ids(c), ids(z), t, s)[0, 0] for c in range(V)])
                if not self.process.carry_over or z == V
                else torch.nn.functional.one_hot(torch.tensor([z] * V), symbols).double()
                for z in range(symbols)
            ]
        )
        total = torch.zeros(len(self.states), dtype=torch.float64)
        for weight, z in zip(self.noised(T), self.states, strict=True):
            rows = self.student.logits[self.student.index(z[None])[0]].log_softmax(-1).exp()
            moves = torch.einsum("lc,lcs->ls", rows, rates[z])
            total = total + weight * torch.stack([moves[i, self.states[:, i]] for i in range(L)]).prod(0)
        return total

    def optimum(self) -> Tensor:
        """log q_data(z_s) - log q_student(z_s), by the index of a state."""
        by_place = (self.noised(S) / self.stepped().detach()).log()
        scores = torch.zeros_like(by_place)
        return scores.index_copy(0, self.auxiliary.index(self.states), by_place)

    def batch(self, seed: int = 0, count: int = MANY) -> Batch:
        generator = Generator().manual_seed(seed)
        return Batch(self.clean[torch.multinomial(self.law, count, replacement=True, generator=generator)])

    def seeded(self, seed: int) -> StepContext:
        streams = {name: Generator().manual_seed(3 * seed + i) for i, name in enumerate(self.ctx.generators)}
        return replace(self.ctx, generators=streams)


def ids(symbol: int) -> Tensor:
    return torch.tensor([[symbol]])


@pytest.fixture(params=["masked", "uniform"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Source:
    def times(law: str, count: int, *args: Any) -> StepTimes:
        t, s, end = (torch.full((count,), time) for time in (T, S, 0.3))
        return StepTimes(t, s, end)

    monkeypatch.setattr("fewstep.objectives.matching.student_step.draw_times", times)
    return Source(request.param)


def objective(**settings: Any) -> DMMD:
    return DMMD(DMMD.Config(adversarial={"share": 1.0, "limit": 1e6, **settings}))  # type: ignore[arg-type]


def test_states_have_the_enumerated_law(source: Source) -> None:
    batch = source.batch()
    step = student_step(batch, source.ctx, draw_step(batch, source.ctx, k=2, min_time=0.0), grad=False)
    expected = torch.zeros(len(source.states), dtype=torch.float64)
    expected.index_copy_(0, source.auxiliary.index(source.states), source.stepped().detach())
    counts = torch.bincount(source.auxiliary.index(step.z_s), minlength=len(source.states)) / MANY
    torch.testing.assert_close(counts.double(), expected, atol=0.005, rtol=0)


def scores_gradient(source: Source, scores: Tensor) -> Tensor:
    source.auxiliary.scores.data.copy_(scores)
    loss = objective().loss(AUXILIARY, source.batch(), source.ctx).loss
    (gradient,) = torch.autograd.grad(loss, source.auxiliary.scores)
    return gradient


def test_the_discriminators_optimum_is_the_exact_log_ratio(source: Source) -> None:
    """No gradient there; elsewhere it is that of the cross entropy, both by enumeration."""
    best = source.optimum()
    assert float(best.abs().max()) > 0.2
    assert float(scores_gradient(source, best).abs().max()) < 1e-3
    other = best + torch.linspace(-1, 1, len(best), dtype=torch.float64)
    places = source.auxiliary.index(source.states)
    real, made = torch.zeros_like(best), torch.zeros_like(best)
    real[places], made[places] = source.noised(S), source.stepped().detach()
    expected = 0.5 * (other.sigmoid() * made - (-other).sigmoid() * real)
    torch.testing.assert_close(scores_gradient(source, other), expected, atol=2e-3, rtol=0)


def student_gradient(source: Source, seed: int, weight: float) -> Tensor:
    """Gradient of the discriminator's part of the student's loss."""
    ctx, parts = source.seeded(seed), []
    for config in (objective(weight=weight), DMMD()):
        ctx = source.seeded(seed)
        loss = config.loss(STUDENT, source.batch(seed), ctx).loss
        parts.append(torch.autograd.grad(loss, source.student.logits)[0])
    return parts[0] - parts[1]


def test_the_student_gets_the_gradient_of_the_divergence(source: Source) -> None:
    """With the best discriminator it is grad KL(q_student(z_s) || q_data(z_s)), here per token, times the weight."""
    source.auxiliary.scores.data.copy_(source.optimum())
    made = source.stepped()
    (exact,) = torch.autograd.grad((made * (made / source.noised(S)).log()).sum(), source.student.logits)
    draws = torch.stack([student_gradient(source, seed, weight=2.0) for seed in range(6)])
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - 2 * exact / L).abs() <= 6 * error + 2e-5).all())
    assert float(exact.abs().max()) > 20 * float(error.max()), "the test can fail"


def test_nothing_moves_where_the_discriminator_cannot_tell(source: Source) -> None:
    assert not student_gradient(source, 0, weight=1.0).any()


def test_the_limit_bounds_what_moves_the_student(source: Source) -> None:
    source.auxiliary.scores.data.fill_(50.0)
    wide, narrow = (
        objective(limit=limit).loss(STUDENT, source.batch(count=64), source.seeded(0)).metrics["adversarial_loss"]
        for limit in (50.0, 5.0)
    )
    torch.testing.assert_close(wide, 10 * narrow)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.25, 0.3, 1.0])
def test_a_share_does_not_depend_on_how_a_batch_is_divided(share: float) -> None:
    ctx, _ = make("masked")
    whole = rows_of_share(share, 40, ctx)
    assert len(whole) == 40 * share
    parts = []
    for place in range(0, 40, 8):
        ctx.place = place
        parts.append(rows_of_share(share, 8, ctx) + place)
    assert torch.equal(torch.cat(parts), whole)


def test_losses_of_parts_add_up_to_that_of_the_batch(source: Source) -> None:
    """A discriminator's loss of a batch is the mean over its equal parts, whose rows are the same."""
    source.auxiliary.scores.data.copy_(source.optimum())
    batch = source.batch(count=24)
    step, log_ratio = fixed_step(source, batch)
    config = objective(share=0.25).config.adversarial
    assert config is not None

    def real(x: Tensor, s: Tensor, *, generator: object) -> Any:
        return type("Noised", (), {"x_t": x})

    source.process.corrupt = real  # type: ignore[method-assign]
    whole = discriminator_loss(config, step, log_ratio, batch, source.ctx)[0]
    parts = []
    for place in range(0, 24, 6):
        rows = slice(place, place + 6)
        part = replace(step, z_s=step.z_s[rows], s=step.s[rows], next_time=step.next_time[rows])
        ctx = replace(source.ctx, place=place)
        parts.append(discriminator_loss(config, part, log_ratio[rows], Batch(batch.x0[rows]), ctx)[0])
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def fixed_step(source: Source, batch: Batch) -> tuple[Any, Tensor]:

    step = student_step(batch, source.ctx, draw_step(batch, source.ctx, k=2, min_time=0.0), grad=False)
    return step, source.auxiliary.score(step.z_s, step.s)


@pytest.mark.parametrize("process", ["masked", "uniform"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_walk_from_noise_comes_to_the_marginal(process: str, steps: int) -> None:
    """One token of an exact student: its state at t has the law of noised data, within and at the end of a step."""
    ctx, _ = make(process, length=1)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    ctx.roles = {"student": TimedOracle(ctx.process, law)}  # type: ignore[dict-item]
    for time in (0.5, 1 / 3, 0.9):
        t = torch.full((100_000,), time)
        z = walk(t, steps, NOTHING, ctx)[:, 0]
        alpha = float(ctx.process.schedule.alpha(t[0].double()))
        expected = alpha * law + (0 if process == "masked" else (1 - alpha) / V)
        counts = torch.bincount(z, minlength=V)[:V] / len(z)
        torch.testing.assert_close(counts.double(), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"adversarial": {}},
        {"adversarial": {"trunk": True, "share": 1.0}, "updates": "simultaneous", "backward": 0.5},
        {"adversarial": {}, "auxiliary_rank": 2},
    ],
)
def test_the_trainer_keeps_the_contract(settings: dict[str, Any]) -> None:
    """Finite, reduced as it says, gradients where they belong, and resumed bit by bit."""
    check_objective({"type": "dmmd", **settings})


def test_a_new_head_says_nothing() -> None:
    assert not Critic(8)(torch.randn(3, 5, 8)).any()


def recipe(objective: dict[str, Any], **changes: Any) -> Recipe:
    raw = {
        "name": "x",
        "data": "coins",
        "process": "masked",
        "backbone": "transformer",
        "objective": {"type": "dmmd", **objective},
        "teacher": {"run": "runs/x"},
        "train": {"steps": 10},
    }
    return parse_recipe({**raw, **changes})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adversarial": {"weight": 0}}, r"objective\.adversarial\.weight"),
        ({"adversarial": {"share": 2}}, r"objective\.adversarial\.share"),
        ({"adversarial": {}, "renoise": "forward"}, r"objective\.renoise: is 'forward', and the discriminator"),
        ({"adversarial": {}, "teacher_temperature": 0.8}, r"objective\.teacher_temperature: moves the teacher away"),
        ({"adversarial": {}, "teacher_top_p": 0.9}, r"objective\.teacher_top_p: moves the teacher away"),
        ({"backward": 0.5, "times": "start", "renoise": "forward"}, r"objective\.backward: with times 'start'"),
        ({"backward": 1.5}, r"objective\.backward"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(settings)


@pytest.mark.parametrize("settings", [{"adversarial": {}}, {"backward": 0.5}])
def test_blocks_are_refused(settings: dict[str, Any]) -> None:
    blocks = {"backbone": {"type": "block_transformer", "block_size": 1}, "sampler": "block"}
    with pytest.raises(RecipeError, match=r"use a backbone without blocks"):
        recipe(settings, **blocks)


def test_an_auxiliary_without_labels_is_refused() -> None:
    class Labelled(Table):
        conditioned_on_labels = True  # type: ignore[assignment]

    ctx, roles = make("masked")
    ctx.roles = {**roles, "student": Labelled(roles["student"].process, 1)}
    with pytest.raises(UserError, match="the student is conditioned on labels and the auxiliary is not"):
        check_networks(ctx)
    with pytest.raises(UserError, match=r"set parallel\.strategy to ddp"):
        check_networks(replace(ctx, ranks=Ranks(together=True)))
    ctx.roles = {**roles, "student": Labelled(roles["student"].process, 1), "auxiliary": ctx.roles["student"]}
    check_networks(ctx)

"""Classifier-free guidance: rows by hand, weights 0 and 1 bit for bit, and a guided teacher against a dense one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from enumerable_denoisers import L, Table, V, drawn_by, make, run, softmax
from torch import Generator, Tensor

import fewstep.predictions.base as prediction_module
from fewstep.denoisers.guidance import GuidedPrediction, guided
from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.objectives.dmmd import DMMD
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import HeadPrediction, TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.samplers.base import SAMPLERS

CLASSES = 2


def by_hand(labelled: list[float], plain: list[float], weight: float) -> list[float]:
    """p_label^w p_none^(1 - w), normalised."""
    products = [a**weight * b ** (1 - weight) for a, b in zip(labelled, plain, strict=True)]
    return [value / sum(products) for value in products]


def table(probabilities: list[list[float]], where: list[bool], known: list[int]) -> TablePrediction:
    log_p = torch.tensor([probabilities], dtype=torch.float64).log()
    return TablePrediction(log_p, torch.tensor([known]), torch.tensor([where]))


@pytest.mark.parametrize("weight", [0.5, 1.5, 2.0, 3.0])
def test_rows_by_hand_and_known_tokens_stay(weight: float) -> None:
    rows, plain = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.2, 0.3, 0.5], [0.3, 0.3, 0.4]]
    both = [table(p, [True, False], [3, 1]) for p in (rows, plain)]
    found = GuidedPrediction(both[0], both[1], weight)
    expected = torch.tensor(by_hand(rows[0], plain[0], weight), dtype=torch.float64)
    torch.testing.assert_close(found.log_probs().exp(), expected[None])
    dense = found.dense_probs()
    torch.testing.assert_close(dense[0, 0], expected)
    assert dense[0, 1].tolist() == [0, 1, 0]
    assert (found.sample(generator=Generator().manual_seed(0))[:, 1] == 1).all()


def test_what_the_label_rules_out_stays_out_and_what_only_it_allows_is_certain() -> None:
    rows, plain = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    both = [table(p, [True, True], [3, 3]) for p in (rows, plain)]
    assert GuidedPrediction(both[0], both[1], 2.0).log_probs().exp().tolist() == [[0, 1, 0], [0.5, 0.5, 0]]


def test_shaping_comes_after_guidance_and_before_it_where_it_was_before() -> None:
    rows, plain = [[0.5, 0.3, 0.2]], [[0.2, 0.3, 0.5]]
    sharp = lambda log_p: (2 * log_p).log_softmax(-1)  # noqa: E731
    both = [table(p, [True], [3]) for p in (rows, plain)]
    after = GuidedPrediction(both[0], both[1], 2.0).shaped(sharp).log_probs()
    before = GuidedPrediction(both[0].shaped(sharp), both[1].shaped(sharp), 2.0).log_probs()
    squared = [p**2 for p in by_hand(rows[0], plain[0], 2.0)]
    torch.testing.assert_close(after.exp()[0], torch.tensor([p / sum(squared) for p in squared], dtype=torch.float64))
    torch.testing.assert_close(after, before)  # powers commute


def test_it_is_computed_in_chunks_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 7).double()
    hidden = [torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    known, where = torch.zeros(2, 6, dtype=torch.long), torch.rand(2, 6) < 0.7
    both = [HeadPrediction(h, head, 7, known, where) for h in hidden]

    def gradients() -> list[Tensor]:
        value = rowwise(lambda p: p.square().sum(1), [GuidedPrediction(both[0], both[1], 2.0)], where=where)
        return [value.detach(), *torch.autograd.grad(value.sum(), [*hidden, *head.parameters()])]

    whole = gradients()
    monkeypatch.setattr(prediction_module, "CHUNK_ELEMENTS", 28)
    for a, b in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(a, b)


class Labelled(Table):
    """A table of logits for every class, the last for none, told by the condition."""

    def __init__(self, process: DiscreteProcess, seed: int) -> None:
        super().__init__(process, seed)
        rng = Generator().manual_seed(seed + 100)
        self.extra = torch.randn(CLASSES + 1, *self.logits.shape, generator=rng, dtype=torch.float64)

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        self.calls.append((x_t, t))
        assert cond.labels is not None
        index = self.index(x_t)
        rows = self.logits[index] + self.extra[cond.labels, index]  # -1 is the last
        return TablePrediction(rows.log_softmax(-1), x_t, self.process.to_predict(x_t))

    def row(self, label: int, state: list[int], position: int) -> list[float]:
        index = sum(token * self.process.num_states**i for i, token in enumerate(state))
        return softmax((self.logits[index, position] + self.extra[label, index, position]).tolist())


def labelled(process_name: str) -> tuple[StepContext, dict[str, Labelled]]:
    ctx, _ = make(process_name)
    roles = {name: Labelled(ctx.process, seed) for seed, name in enumerate(("teacher", "student", "auxiliary"))}
    ctx.roles = dict(roles)
    return ctx, roles


LABELS = torch.arange(64) % CLASSES


def loss(ctx: StepContext, roles: dict[str, Labelled], phase: str, cond: Condition, **settings: Any) -> Tensor:
    for name, role in roles.items():
        role.requires_grad_(name == phase)
    data = torch.randint(V, (64, L), generator=Generator().manual_seed(7))
    return DMMD(DMMD.Config(**settings)).loss(Phase(phase, (phase,)), Batch(data, cond), ctx).loss


@pytest.mark.parametrize("phase", ["student", "auxiliary"])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_a_guided_teacher_is_the_dense_reference(process: str, phase: str) -> None:
    """Loss and gradient against sums over rows that were guided by hand."""
    weight = 2.0
    ctx, roles = labelled(process)
    found = loss(ctx, roles, phase, Condition(LABELS), teacher_guidance=weight, aux_target="hard", k=3)
    student, teacher, auxiliary = roles["student"], roles["teacher"], roles["auxiliary"]
    assert (teacher.nfe, student.nfe, auxiliary.nfe) == (2, 1, 1)
    (z_t, _), (z_s, _) = student.calls[0], teacher.calls[0]
    expected, role = 0.0, roles[phase]
    gradient = torch.zeros_like(role.logits)
    drawn = hard_draws(process)
    for b in range(len(z_t)):
        y = int(LABELS[b])
        for i in range(L):
            if process == "masked" and z_s[b, i] != V:
                continue
            state = z_s[b].tolist()
            target = by_hand(teacher.row(y, state, i), teacher.row(-1, state, i), weight)
            p, a = student.row(y, z_t[b].tolist(), i), auxiliary.row(y, state, i)
            share = 1 / (len(z_t) * L)
            if phase == "student":
                gap = [math.log(q) - math.log(r) for q, r in zip(a, target, strict=True)]
                mean = sum(x * g for x, g in zip(p, gap, strict=True))
                expected += share * mean
                own, index = [x * (g - mean) for x, g in zip(p, gap, strict=True)], int(role.index(z_t[b : b + 1]))
            else:
                wanted = [float(c == drawn[b, i]) + target[c] for c in range(V)]
                expected -= share * sum(w * math.log(q) for w, q in zip(wanted, a, strict=True))
                own, index = [2 * q - w for w, q in zip(wanted, a, strict=True)], int(role.index(z_s[b : b + 1]))
            gradient[index, i] += share * torch.tensor(own, dtype=torch.float64)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    found.backward()
    torch.testing.assert_close(role.logits.grad, gradient, rtol=1e-6, atol=1e-9)


def hard_draws(process: str) -> Tensor:
    """The tokens x that the student drew, from the same random streams."""
    ctx, roles = labelled(process)
    drawn = drawn_by(ctx)
    loss(ctx, roles, "auxiliary", Condition(LABELS), aux_target="hard", k=3)
    return drawn[0]


@pytest.mark.parametrize("phase", ["student", "auxiliary"])
def test_weights_one_and_zero_are_the_plain_losses(phase: str) -> None:
    ctx, roles = labelled("masked")
    one = loss(ctx, roles, phase, Condition(LABELS), teacher_guidance=1.0)
    assert roles["teacher"].nfe == 1
    ctx, roles = labelled("masked")
    assert torch.equal(one, loss(ctx, roles, phase, Condition(LABELS)))

    ctx, roles = labelled("masked")
    zero = loss(ctx, roles, phase, Condition(LABELS), teacher_guidance=0.0)
    assert roles["teacher"].nfe == 1
    ctx, roles = labelled("masked")
    with torch.no_grad():
        roles["teacher"].extra[:] = roles["teacher"].extra[-1].clone()
    assert torch.equal(zero, loss(ctx, roles, phase, Condition(LABELS)))
    assert not torch.equal(zero, one)


def test_without_labels_nothing_is_drawn_for_them() -> None:
    """Objectives without labels draw what they always drew."""
    ctx, roles = make("masked")
    found = run(ctx, roles, DMMD(DMMD.Config()), "student")[0]
    ctx, roles = make("masked")
    assert torch.equal(found, run(ctx, roles, DMMD(DMMD.Config(teacher_guidance=1.0)), "student")[0])


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_sampler_weights_one_and_zero_are_plain_sampling(process: str) -> None:
    model, labels = Labelled(PROCESSES.build(process, vocab_size=V), 0), torch.arange(50) % CLASSES

    def draw(cond: Condition, **settings: Any) -> tuple[Tensor, int]:
        sampler = SAMPLERS.build({"type": "ancestral", **settings})
        drawn = sampler.sample(model, 50, steps=4, generator=Generator().manual_seed(3), cond=cond)
        return drawn.x, drawn.nfe

    plain, none = draw(Condition(labels)), draw(Condition(labels).without_labels())
    one, zero, two = (draw(Condition(labels), guidance=weight) for weight in (1.0, 0.0, 2.0))
    assert torch.equal(one[0], plain[0])
    assert torch.equal(zero[0], none[0])
    assert not torch.equal(one[0], zero[0])
    assert not torch.equal(two[0], one[0])
    assert (one[1], zero[1], two[1]) == (4, 4, 8)


def test_guided_samples_have_the_guided_law() -> None:
    """One step from all masks: the share of each symbol is the guided row."""
    model, count = Labelled(PROCESSES.build("masked", vocab_size=V), 0), 60_000
    sampler = SAMPLERS.build({"type": "ancestral", "guidance": 2.5})
    cond = Condition(torch.ones(count, dtype=torch.long))
    drawn = sampler.sample(model, count, steps=1, generator=Generator().manual_seed(0), cond=cond).x
    for i in range(L):
        law = torch.tensor(by_hand(model.row(1, [V] * L, i), model.row(-1, [V] * L, i), 2.5))
        share = torch.bincount(drawn[:, i], minlength=V) / count
        torch.testing.assert_close(share, law, atol=0.01, rtol=0)  # five standard deviations


def test_guided_is_one_call_of_a_denoiser() -> None:
    model = Labelled(PROCESSES.build("masked", vocab_size=V), 0)
    x, t = torch.full((3, L), V), torch.ones(3)
    found = guided(model, x, t, weight=2.0, cond=Condition(torch.tensor([0, 1, 1])))
    assert isinstance(found, GuidedPrediction)
    rows = found.log_probs().exp().view(3, L, V)
    expected = by_hand(model.row(0, [V] * L, 1), model.row(-1, [V] * L, 1), 2.0)
    torch.testing.assert_close(rows[0, 1], torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(rows[1], rows[2])

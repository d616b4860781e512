"""Di[M]O: its gradient by a few lines of its own formulas, where it rests, its masks, and its one-step sampler."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from enumerable_denoisers import L, Table, V, make, row
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError, UserError
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.objectives.dimo import DiMO, jeffreys_gradient, mask_counts
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import top_p
from fewstep.processes.base import PROCESSES
from fewstep.processes.masked import MaskedProcess
from fewstep.processes.masks import random_start, with_masks
from fewstep.recipe import load_recipe, parse_recipe, with_sampler
from fewstep.runs.build import build_network, build_process
from fewstep.runs.models import build_dataset
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS

MASK, B = V, 64
STUDENT, AUXILIARY = Phase("student", ("student",)), Phase("auxiliary", ("auxiliary",))


class Asked(Table):
    """A table that answers at all places when it is asked to, and drops what top-p leaves out."""

    mass = 1.0

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        self.calls.append((x_t, t))
        where = torch.ones_like(x_t, dtype=torch.bool) if cond.everywhere else self.process.to_predict(x_t)
        prediction = TablePrediction(self.logits[self.index(x_t)].log_softmax(-1), x_t, where)
        return prediction if self.mass == 1 else prediction.shaped(top_p(self.mass))


def players(length: int = L) -> tuple[StepContext, dict[str, Asked]]:
    ctx, _ = make("masked", length)
    roles = {name: Asked(ctx.process, seed, length) for seed, name in enumerate(("teacher", "student", "auxiliary"))}
    return StepContext(dict(roles), ctx.process, ctx.generators, ctx.device), roles


def masked() -> MaskedProcess:
    process = PROCESSES.build("masked", vocab_size=V)
    assert isinstance(process, MaskedProcess)
    return process


def build(**config: object) -> DiMO:
    objective = OBJECTIVES.build({"type": "dimo", **config})
    assert isinstance(objective, DiMO)
    return objective


def data() -> Batch:
    return Batch(torch.zeros(B, L, dtype=torch.long))


def gradient(objective: DiMO, ctx: StepContext, roles: dict[str, Asked]) -> Tensor:
    loss = objective.loss(STUDENT, data(), ctx).loss
    assert bool(torch.isfinite(loss))
    (found,) = torch.autograd.grad(loss, roles["student"].logits)
    return found


def by_hand(p_a: list[float], p_t: list[float], b: float) -> list[float]:
    """(1 - b) (p_A - p_T) + b p_A (log p_A / p_T - KL), for probabilities that are not 0."""
    kl = sum(a * math.log(a / q) for a, q in zip(p_a, p_t, strict=True))
    return [(1 - b) * (a - q) + b * a * (math.log(a / q) - kl) for a, q in zip(p_a, p_t, strict=True)]


# --------------------------------------------------------------------- the student's gradient


@pytest.mark.parametrize("b", [0.0, 1.0, -0.2])
def test_the_gradient_at_the_logits_is_that_of_the_divergence_at_masks_alone(b: float) -> None:
    """Summed over tokens, mean over samples; the student's own row of the start gets it, wherever z_t has a mask."""
    ctx, roles = players()
    found = gradient(build(jeffreys=b), ctx, roles)
    starts, z_t = roles["student"].calls[0][0], roles["teacher"].calls[0][0]
    assert torch.equal(z_t, roles["auxiliary"].calls[0][0])
    expected = torch.zeros_like(found)
    for index, state in zip(roles["student"].index(starts).tolist(), z_t.tolist(), strict=True):
        for place in [i for i in range(L) if state[i] == MASK]:
            g = by_hand(row(roles["auxiliary"], state, place), row(roles["teacher"], state, place), b)
            expected[index, place] += torch.tensor(g, dtype=torch.float64) / B
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert float(expected.abs().max()) > 0.01
    assert any(state.count(MASK) < L for state in z_t.tolist()), "some places are not masked"
    assert all(roles[name].logits.grad is None for name in ("teacher", "auxiliary"))


def test_visible_places_of_the_start_learn_too() -> None:
    """Each start shows a token; without `everywhere` those rows would be copied and get no gradient."""
    ctx, roles = players()
    found = gradient(build(), ctx, roles)
    starts = roles["student"].calls[0][0]
    index = roles["student"].index(starts)
    shown = (starts != MASK).nonzero()
    assert len(shown) == B * (L - round(0.6 * L))
    assert float(sum(found[index[b], i].abs().sum() for b, i in shown.tolist())) > 0.01


@pytest.mark.parametrize("b", [0.0, 1.0, -0.2])
def test_it_rests_where_auxiliary_and_teacher_agree(b: float) -> None:
    ctx, roles = players()
    roles["auxiliary"].logits.data.copy_(roles["teacher"].logits.data)
    assert not gradient(build(jeffreys=b), ctx, roles).any()


@pytest.mark.parametrize("b", [0.0, 1.0, -0.2])
def test_symbols_that_the_teacher_rules_out_leave_everything_finite(b: float) -> None:
    ctx, roles = players()
    roles["teacher"].mass = 0.5
    found = gradient(build(jeffreys=b), ctx, roles)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found.sum(-1), torch.zeros_like(found[..., 0]), atol=1e-12, rtol=0)


def test_reverse_kl_drives_the_student_from_what_the_teacher_rules_out() -> None:
    """One state, one symbol left to the teacher: the others lose probability, by descent."""
    a = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
    q = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).log()
    for b in (0.0, 1.0):
        g = jeffreys_gradient(a, q, b)[0]
        assert float(g[0]) > 0 > float(g[1]), b


def test_chunks_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradient(build(jeffreys=0.3), *players())
    monkeypatch.setattr("fewstep.predictions.base.CHUNK_ELEMENTS", 2 * V)
    torch.testing.assert_close(gradient(build(jeffreys=0.3), *players()), whole)


# --------------------------------------------------------------------- the auxiliary


def test_the_auxiliary_learns_smoothed_tokens_at_masks() -> None:
    objective = build()
    ctx, roles = players()
    made = objective.generate(data(), ctx, grad=False)
    again, roles = players()
    loss = objective.loss(AUXILIARY, data(), again).loss
    z_t = roles["auxiliary"].calls[0][0]
    assert torch.equal(z_t, made.z_t), "the same streams draw the same"
    where = z_t == MASK
    logits = roles["auxiliary"].logits[roles["auxiliary"].index(z_t)][where]
    expected = torch.nn.functional.cross_entropy(logits, made.x[where], label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    assert not roles["teacher"].calls
    loss.backward()
    assert roles["student"].logits.grad is None
    assert roles["auxiliary"].logits.grad is not None


def test_phases_alternate_and_draw_anew() -> None:
    ctx, roles = players()
    objective = build()
    assert [(phase.train, phase.repeat) for phase in objective.phases()] == [(("student",), 1), (("auxiliary",), 1)]
    for phase in objective.phases():
        objective.loss(phase, data(), ctx)
    first, second = (x for x, _ in roles["student"].calls)
    assert not torch.equal(first, second)


# --------------------------------------------------------------------- starts and masks


def test_masks_are_exact_and_their_places_are_not_preferred() -> None:
    process, rng = masked(), Generator().manual_seed(0)
    counts = torch.arange(6).repeat(2000)
    x = torch.zeros(len(counts), 5, dtype=torch.long)
    masks = with_masks(process, x, counts, generator=rng) == MASK
    assert torch.equal(masks.sum(1), counts)
    torch.testing.assert_close(masks.double().mean(0), torch.full((5,), 0.5, dtype=torch.float64), atol=0.02, rtol=0)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2, 1), (32, 19), (64, 38)])
def test_a_start_is_random_but_for_its_masks(length: int, count: int) -> None:
    device, rng = torch.device("cpu"), Generator().manual_seed(0)
    start = random_start(masked(), 3000, length, 0.6, device=device, generator=rng)
    assert bool(((start == MASK).sum(1) == count).all())
    shown = torch.bincount(start.flatten(), minlength=V + 1)[:V].double()
    if length > 1:
        torch.testing.assert_close(shown / shown.sum(), torch.full((V,), 1 / V, dtype=torch.float64), atol=0.03, rtol=0)


def test_shares_that_are_masked_again_follow_the_arccosine() -> None:
    """P(share < r) = 1 - cos(r pi / 2), so the mean is 2 / pi: most tokens are masked."""
    counts = mask_counts(torch.rand(200_000, generator=Generator().manual_seed(0), dtype=torch.float64), 1000)
    share = counts.double() / 1000
    assert float(share.mean()) == pytest.approx(2 / math.pi, abs=0.003)
    for r in (0.25, 0.5, 0.75):
        assert float((share < r).double().mean()) == pytest.approx(1 - math.cos(r * math.pi / 2), abs=0.005)
    assert mask_counts(torch.tensor([0.0, 0.999999, 1.0]), 4).tolist() == [4, 1, 1], "never none"


def test_networks_are_told_the_time_of_so_many_masks() -> None:
    ctx, roles = players()
    build().loss(STUDENT, data(), ctx)
    for name in ("teacher", "auxiliary"):
        z_t, t = roles[name].calls[0]
        torch.testing.assert_close(ctx.process.schedule.noise(t), (z_t == MASK).float().mean(1), atol=2e-4, rtol=0)
    torch.testing.assert_close(ctx.process.schedule.noise(roles["student"].calls[0][1]), torch.full((B,), 0.6))


# --------------------------------------------------------------------- sampling


def test_one_step_draws_all_tokens_from_the_start_that_training_has() -> None:
    """The law of 40,000 samples is the mean over starts of the table's products, enumerated."""
    table, many = Asked(masked(), 3), 40_000
    out = SAMPLERS.build("one_step").sample(table, many, steps=1, generator=Generator().manual_seed(0))
    assert out.nfe == 1
    (starts, t), *rest = table.calls
    assert not rest
    torch.testing.assert_close(table.process.schedule.noise(t), torch.full((many,), 0.6))
    index = out.x[:, 0] * V + out.x[:, 1]
    law = torch.zeros(V * V, dtype=torch.float64)
    for seen in [[MASK, v] for v in range(V)] + [[v, MASK] for v in range(V)]:
        first, second = (torch.tensor(row(table, seen, i), dtype=torch.float64) for i in range(L))
        law += (first[:, None] * second).flatten() / (2 * V)
    torch.testing.assert_close(torch.bincount(index, minlength=V * V).double() / many, law, atol=0.01, rtol=0)
    assert bool(((starts == MASK).sum(1) == 1).all())


def test_one_step_shows_its_start_and_keeps_what_is_given() -> None:
    table, sampler = Asked(masked(), 3, 4), SAMPLERS.build({"type": "one_step", "masks": 0.5})
    given = torch.tensor([[2, -1, -1, 0]]).expand(50, -1)
    cond = Condition(prompt=given)
    out = sampler.sample(table, 50, steps=1, generator=SampleStreams(0, range(50)), cond=cond).x
    start = table.calls[0][0]
    assert torch.equal(start[given >= 0], given[given >= 0])
    assert torch.equal(out[given >= 0], given[given >= 0])
    assert int(out.max()) < V
    assert cond == Condition(prompt=given), "the caller's condition stays as it was"


def test_one_step_is_one_step() -> None:
    with pytest.raises(UserError, match="sampler 'one_step' takes 1 step, not 4; set the number of steps to 1"):
        SAMPLERS.build("one_step").sample(Asked(masked(), 3), 2, steps=4, generator=Generator())


def test_conditions_carry_the_question() -> None:
    cond = Condition(labels=torch.arange(4), everywhere=True)
    rows = torch.tensor([True, False, True, False])
    parts = [cond.select(rows), *cond.split(2), cond.repeat(3), cond.without_labels()]
    assert all(part.everywhere for part in parts)
    assert not any(part.everywhere for part in Condition(labels=torch.arange(4)).split(2))


def test_networks_answer_everywhere_when_they_are_asked(tmp_path: Path) -> None:
    recipe = load_recipe("coins-dimo", teacher=str(tmp_path)).recipe
    dataset = build_dataset(recipe)
    network = build_network(recipe, dataset, build_process(recipe, dataset), DiMO.roles["student"])
    x_t = torch.tensor([[0, 2], [2, 2]])
    t = torch.ones(2)
    assert network(x_t, t).where.tolist() == [[False, True], [True, True]]
    assert bool(network(x_t, t, cond=Condition(everywhere=True)).where.all())


# --------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("process=uniform", "objective.type: samples are compared where they are masked, and the uniform process has"),
        ("sampler=ancestral", "sampler: students of 'dimo' are made for 'one_step', not 'ancestral'"),
        ("sampler.masks=0.5", "masks: the student would be trained on 0.6 masks and sampled from 0.5; set sampler.mas"),
        (
            "evaluate.steps=[1,4]",
            r"sampler 'one_step' takes 1 step, not 4; set evaluate.steps to \[1\]",
        ),
        ("sampler.grid=cosine", "grid: one step has no times to choose; leave the grid out"),
        ("objective.teacher_guidance=2.0", "teacher_guidance: a teacher is guided by labels; add `label_input: {}`"),
    ],
)
def test_recipes_that_cannot_work_are_refused(change: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe("coins-dimo", [change], teacher=str(tmp_path))


def test_other_recipes_may_be_sampled_in_one_step_but_not_in_blocks() -> None:
    raw = {"data": "coins", "process": "masked", "backbone": "transformer", "objective": "denoising"}
    recipe = parse_recipe({"name": "x", **raw, "train": {"steps": 1}})
    assert with_sampler(recipe, "one_step", steps=[1]).sampler.type == "one_step"
    with pytest.raises(RecipeError, match="takes 1 step, not 8"):
        with_sampler(recipe, "one_step", steps=[8])
    with pytest.raises(RecipeError, match="'one_step' cannot draw a block of a larger sample"):
        with_sampler(recipe, "{type: semi_autoregressive, inner: one_step}", steps=[1])

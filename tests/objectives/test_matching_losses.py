"""Every form of the matching loss against a dense float64 reference, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from enumerable_denoisers import L, Table, V, make, run
from torch import Generator, Tensor

from fewstep.objectives.base import Batch, Phase
from fewstep.objectives.denoising import Denoising
from fewstep.objectives.dmmd import DMMD
from fewstep.objectives.matching.losses import CrossEntropyLoss, PosteriorLoss, mean_log_ratio
from fewstep.predictions.base import Prediction
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess

FORMS = ["cross_entropy", "squared_error", "posterior"]
STEP = 0.05


def dense(table: Table, z: Tensor) -> Tensor:
    """Probabilities [B, L, V] at states z."""
    return table.logits[table.index(z)].softmax(-1)


def plugged(process: DiscreteProcess, x: Tensor, z: Tensor, s: Tensor) -> Tensor:
    """Posterior of a step from s to s - STEP, from the definition (method: arXiv 2603.20155, section 2)."""
    states = process.num_states
    prior = torch.zeros(states, dtype=torch.float64)
    if process.carry_over:
        prior[-1] = 1
    else:
        prior += 1 / states
    x = torch.cat([x, x.new_zeros(*x.shape[:-1], states - V)], -1)
    now = torch.nn.functional.one_hot(z, states).double()
    later, earlier = (process.schedule.alpha(v)[:, None, None] for v in (s.double(), (s.double() - STEP).clamp_min(0)))
    ratio = later / earlier
    back = ratio * now + (1 - ratio) * (now @ prior)[..., None]
    weights = back * (earlier * x + (1 - earlier) * prior)
    return weights / weights.sum(-1, keepdim=True)


def reference(form: str, process: DiscreteProcess, x: Tensor, q: Tensor, z: Tensor, s: Tensor) -> Tensor:
    """L(x, q) [B, L] from its definition."""
    if form == "cross_entropy":
        return -(x * q.log()).sum(-1)
    if form == "squared_error":
        return (x - q).square().sum(-1)
    pi_x, pi_q = plugged(process, x, z, s), plugged(process, q, z, s)
    return -(pi_x * pi_q.clamp_min(1e-30).log()).sum(-1) / STEP


def predicted(process: DiscreteProcess, z: Tensor) -> Tensor:
    return process.to_predict(z).double()


@pytest.mark.parametrize("process", ["masked", "uniform"])
@pytest.mark.parametrize("form", FORMS)
def test_student(form: str, process: str) -> None:
    ctx, roles = make(process)
    loss, _ = run(ctx, roles, DMMD(DMMD.Config(k=3, loss=form, posterior_step=STEP)), "student")
    (z_t, _), (z_s, s) = roles["student"].calls[0], roles["teacher"].calls[0]
    p, q, a = dense(roles["student"], z_t), dense(roles["teacher"], z_s).detach(), dense(roles["auxiliary"], z_s)
    a = a.detach()
    if form == "squared_error":
        value = (p * (a - q)).sum(-1)
    else:
        value = reference(form, ctx.process, p, q, z_s, s) - reference(form, ctx.process, p, a, z_s, s)
    expected = (value * predicted(ctx.process, z_s)).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-9)
    (wanted,) = torch.autograd.grad(expected, roles["student"].logits)
    loss.backward()
    torch.testing.assert_close(roles["student"].logits.grad, wanted, rtol=1e-5, atol=1e-9)
    assert roles["teacher"].logits.grad is None
    assert roles["auxiliary"].logits.grad is None


@pytest.mark.parametrize(("process", "target"), [("masked", "soft"), ("masked", "hard"), ("uniform", "hard")])
@pytest.mark.parametrize("form", FORMS)
def test_auxiliary(form: str, process: str, target: str) -> None:
    ctx, roles = make(process)
    settings: dict[str, Any] = {"loss": form, "aux_target": target, "regulariser": 0.7, "posterior_step": STEP}
    loss, x = run(ctx, roles, DMMD(DMMD.Config(**settings)), "auxiliary")
    (z_t, _), (z_s, s) = roles["student"].calls[0], roles["teacher"].calls[0]
    p = dense(roles["student"], z_t).detach() if target == "soft" else torch.nn.functional.one_hot(x, V).double()
    q, a = dense(roles["teacher"], z_s).detach(), dense(roles["auxiliary"], z_s)
    value = reference(form, ctx.process, p, a, z_s, s) + 0.7 * reference(form, ctx.process, q, a, z_s, s)
    expected = (value * predicted(ctx.process, z_s)).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-9)
    (wanted,) = torch.autograd.grad(expected, roles["auxiliary"].logits)
    loss.backward()
    torch.testing.assert_close(roles["auxiliary"].logits.grad, wanted, rtol=1e-5, atol=1e-9)
    assert roles["student"].logits.grad is None


def predictions(process: DiscreteProcess, count: int, batch: int = 50) -> tuple[Tensor, list[Prediction]]:
    rng = Generator().manual_seed(3)
    z = torch.randint(process.num_states, (batch, L), generator=rng)
    tables = [
        torch.randn(batch, L, V, generator=rng, dtype=torch.float64).log_softmax(-1).requires_grad_()
        for _ in range(count)
    ]
    return z, [TablePrediction(table, z, process.to_predict(z)) for table in tables]


def test_posterior_form_of_the_masked_process_is_the_cross_entropy_times_the_chance_of_a_reveal() -> None:
    process = PROCESSES.build("masked", vocab_size=V)
    z, (p, a, q) = predictions(process, 3)
    s = torch.rand(len(z), generator=Generator().manual_seed(4)) * 0.8 + 0.15
    chance = process.unmask_prob(s, s - STEP)[:, None] / STEP  # type: ignore[attr-defined]
    form = PosteriorLoss(process, z, s, STEP)
    torch.testing.assert_close(form.student(p, a, q), chance * CrossEntropyLoss().student(p, a, q))
    grads = [
        torch.autograd.grad(loss.sum(), a._table)[0]  # type: ignore[attr-defined]
        for loss in (form.fit(p, a), chance * CrossEntropyLoss().fit(p, a))
    ]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_nothing_moves_the_student_where_auxiliary_and_teacher_agree(form: str, process: str) -> None:
    ctx, roles = make(process)
    roles["auxiliary"].load_state_dict(roles["teacher"].state_dict())
    loss, _ = run(ctx, roles, DMMD(DMMD.Config(loss=form)), "student")
    loss.backward()
    grad = roles["student"].logits.grad
    assert grad is not None
    assert grad.abs().max() < 1e-12


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_posterior_denoising_has_its_optimum_where_the_posterior_is_right(process: str) -> None:
    """One token of a known law: for the uniform process the best output is not E[x | z_t], and that is the point."""
    built = PROCESSES.build(process, vocab_size=V)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    t, step = torch.tensor([0.5]), 0.25
    for state in range(built.num_states):
        z = torch.tensor([[state]])
        if not built.to_predict(z).all():
            continue
        alpha = built.schedule.alpha(t.double())
        seen = torch.eye(V, dtype=torch.float64)[:, state] if state < V else torch.ones(V, dtype=torch.float64)
        evidence = law if process == "masked" else law * (alpha * seen + (1 - alpha) / V)
        mean = evidence / evidence.sum()
        target = torch.stack([built.posterior_probs(torch.tensor([[c]]), z, t, t - step)[0, 0] for c in range(V)])
        wanted = mean @ target  # q(z_s | z_t), the mixture over x
        logits = torch.zeros(1, 1, V, dtype=torch.float64, requires_grad=True)
        form = PosteriorLoss(built, z, t, step)
        optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

        def closure(z=z, logits=logits, form=form, mean=mean, optimiser=optimiser) -> Tensor:  # type: ignore[no-untyped-def]
            optimiser.zero_grad()
            prediction = TablePrediction(logits.log_softmax(-1), z, built.to_predict(z))
            loss = sum(mean[c] * form.fit(torch.tensor([[c]]), prediction).sum() for c in range(V))
            loss.backward()  # type: ignore[union-attr]
            return loss  # type: ignore[return-value]

        optimiser.step(closure)
        learned = built.posterior_probs(logits.softmax(-1).detach(), z, t, t - step)[0, 0]
        torch.testing.assert_close(learned, wanted, rtol=1e-4, atol=1e-5)
        agrees = torch.allclose(logits.softmax(-1)[0, 0], mean, atol=1e-3)
        assert agrees == (process == "masked")


def test_posterior_denoising_trains_with_finite_gradients_next_to_clean_data() -> None:
    ctx, roles = make("uniform")
    ctx.roles = {"student": roles["student"]}
    out = Denoising(Denoising.Config(loss="posterior", min_time=0.0)).loss(
        Phase("train", ("student",)), Batch(torch.randint(V, (200, L))), ctx
    )
    out.loss.backward()
    assert roles["student"].logits.grad is not None
    assert roles["student"].logits.grad.isfinite().all()


def test_log_ratio_counts_symbols_that_both_allow() -> None:
    table = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    other = torch.tensor([[[0.25, 0.5, 0.25]]]).log()
    where, known = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long)
    pair = [TablePrediction(x, known, where) for x in (table, other)]
    assert mean_log_ratio(*pair).item() == pytest.approx(torch.tensor(2.0).log().item() / 2)

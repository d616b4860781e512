"""The switches that turn D-MMD into its neighbours, against a few lines of each neighbour's own formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from enumerable_denoisers import JointOracle, L, Table, V, make
from torch import Generator, Tensor

from fewstep.core.kinds import registry
from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.objectives.dmmd import DMMD
from fewstep.objectives.matching.student_step import StudentStep
from fewstep.recipe import load_recipe

MASK = V


def loss_of(recipe: str, phase: str, process: str = "masked") -> tuple[dict[str, object], Tensor]:
    """The shipped recipe's objective on enumerable denoisers, and its loss."""
    config = load_recipe(recipe, ["teacher={run: runs/none}"]).recipe.objective
    objective = registry("objectives").build(config)
    assert isinstance(objective, DMMD)
    ctx, roles = make(process)
    for name, role in roles.items():
        role.requires_grad_(name == phase)
    data = torch.randint(V, (256, L), generator=Generator().manual_seed(7))
    loss = objective.loss(Phase(phase, (phase,)), Batch(data), ctx).loss
    return dict(roles), loss


@pytest.mark.parametrize("phase", ["student", "auxiliary"])
def test_idlm(phase: str) -> None:
    """IDLM: soft ELBO of the teacher less that of the fake network, at a renoised time of its own."""
    roles, loss = loss_of("markov-idlm", phase)
    (x_t, t), (z, s) = roles["student"].calls[0], roles["teacher"].calls[0]  # type: ignore[attr-defined]
    assert abs(torch.corrcoef(torch.stack([t, s]))[0, 1]) < 0.25, "the two times are independent"
    pi = roles["student"].logits[roles["student"].index(x_t)].softmax(-1)  # type: ignore[attr-defined]
    pi = torch.where((x_t == MASK)[..., None], pi, torch.nn.functional.one_hot(x_t.clamp(max=V - 1), V).double())
    alpha = (1 - 2e-4) * (1 - s.double()) + 1e-4  # the linear schedule, kept off its ends
    weight = (1 - 2e-4) / (1 - alpha)
    logs = {name: roles[name].logits[roles[name].index(z)].log_softmax(-1) for name in ("teacher", "auxiliary")}  # type: ignore[attr-defined]
    elbo = {name: -(weight[:, None] * (pi * log).sum(-1) * (z == MASK)).mean() for name, log in logs.items()}
    expected = elbo["teacher"] - elbo["auxiliary"] if phase == "student" else elbo["auxiliary"]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-8)
    parameter = roles[phase].logits  # type: ignore[attr-defined]
    (wanted,) = torch.autograd.grad(expected, parameter)
    loss.backward()
    torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-8)


def test_idlm_renoises_a_fresh_draw() -> None:
    """z ~ Cat(alpha_s pi + (1 - alpha_s) mask): what survives has the law of pi, whatever was drawn before."""
    ctx, roles = make("masked", length=1)
    objective = DMMD(DMMD.Config(renoise="forward_soft", times="independent", regulariser=0))
    objective.loss(Phase("student", ("student",)), Batch(torch.zeros(40_000, 1, dtype=torch.long)), ctx)
    (x_t, _), (z, s) = roles["student"].calls[0], roles["teacher"].calls[0]
    started_masked = x_t[:, 0] == MASK
    kept = z[:, 0] != MASK
    assert kept.double().mean() == pytest.approx(float(1 - s.mean()), abs=0.01)
    law = torch.bincount(z[started_masked & kept, 0], minlength=V) / (started_masked & kept).sum()
    expected = roles["student"].logits[MASK, 0].softmax(-1).detach()
    torch.testing.assert_close(law.double(), expected, atol=0.015, rtol=0)


@pytest.mark.parametrize("phase", ["student", "auxiliary"])
def test_one_step_di_m_o(phase: str) -> None:
    """Di[M]O with the log-ratio gradient: one-step samples, renoised forward; fake network on hard tokens."""
    roles, loss = loss_of("markov-one-step", phase)
    (x_1, t), (z, _) = roles["student"].calls[0], roles["teacher"].calls[0]  # type: ignore[attr-defined]
    assert (t == 1).all()
    assert (x_1 == MASK).all(), "the generator starts from nothing but masks"
    masked = z == MASK
    logits = roles["student"].logits[roles["student"].index(x_1)]  # type: ignore[attr-defined]
    teacher, fake = (roles[n].logits[roles[n].index(z)].log_softmax(-1) for n in ("teacher", "auxiliary"))  # type: ignore[attr-defined]
    count = masked.numel()
    if phase == "student":
        # Reverse KL at the logits of the first pass: p (log fake - log teacher - its mean), Di[M]O with beta = 1.
        p = logits.softmax(-1)
        ratio = (fake - teacher).detach()
        gradient = p * (ratio - (p * ratio).sum(-1, keepdim=True)) * masked[..., None] / count
        wanted = torch.autograd.grad(logits, roles["student"].logits, gradient.detach())[0]  # type: ignore[attr-defined]
        loss.backward()
        torch.testing.assert_close(roles["student"].logits.grad, wanted, rtol=1e-5, atol=1e-9)  # type: ignore[attr-defined]
    else:
        # The drawn tokens are seen in z where they were kept; where they were masked the loss needs them: it is
        # linear in one-hot targets, so its gradient says which they were.
        loss.backward()
        grad = roles["auxiliary"].logits.grad  # type: ignore[attr-defined]
        index = roles["auxiliary"].index(z)  # type: ignore[attr-defined]
        drawn = torch.zeros_like(grad)
        drawn.index_add_(0, index, fake.softmax(-1).detach() * masked[..., None] / count)
        hits = (drawn - grad) * count
        torch.testing.assert_close(hits, hits.round(), rtol=0, atol=1e-6)
        assert hits.min() > -1e-6
        assert hits.sum() == pytest.approx(float(masked.sum()), rel=1e-6)


class Expected(StepContext):
    """Expectations over rows of known probabilities in the place of means."""

    weights: Tensor

    def mean(self, values: Tensor, where: Tensor | None = None, *, batch: Batch | None = None) -> Tensor:
        return (self.weights[:, None] * values).sum()


def every_step(
    ctx: StepContext, student: Table, data: Tensor, times: tuple[float, ...]
) -> tuple[StudentStep, Tensor, Tensor]:
    """All steps of IDLM for two tokens, their probabilities, and the distribution of the student's samples [V, V].

    z_t is data noised to one of `times`, z_s is Cat(alpha_s p + (1 - alpha_s) mask). Nodes of the integral over s are
    those of Gauss and Legendre, which is exact: the integrand is a polynomial in s.
    """
    process, nodes = ctx.process, torch.tensor([0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)], dtype=torch.float64)
    shares = torch.tensor([5, 8, 5]).double() / 18
    states = torch.tensor(list(itertools.product(range(V + 1), repeat=2)))
    ids = torch.tensor(list(itertools.product(range(V), repeat=2)))
    first = []
    for time in times:
        alpha = float(process.schedule.alpha(torch.tensor(time).double()))
        kept = (states[:, None] == ids).double() * alpha + (states[:, None] == MASK).double() * (1 - alpha)
        first.append(kept.prod(-1) @ data.flatten() / len(times))
    z_t, weight = states.repeat(len(times), 1), torch.cat(first)
    p = student(z_t, torch.ones(len(z_t)).double()).dense_probs().detach()
    samples = torch.einsum("n,na,nb->ab", weight, p[:, 0], p[:, 1])
    alpha = process.schedule.alpha(nodes)[:, None, None, None]
    rows = torch.cat((alpha * p, (1 - alpha).expand(-1, *p.shape[:2], 1)), -1)  # [nodes, N, 2, V + 1]
    chance = rows[:, :, 0, states[:, 0]] * rows[:, :, 1, states[:, 1]] * weight[:, None] * shares[:, None, None]
    index = torch.cartesian_prod(*(torch.arange(size) for size in chance.shape))
    s, z_s, z_t = nodes[index[:, 0]], states[index[:, 2]], z_t[index[:, 1]]
    prediction = student(z_t, s)
    step = StudentStep(prediction, torch.zeros(z_t.shape), z_t, z_s, s, s, s)
    return step, chance.flatten(), samples


@pytest.mark.parametrize("fake", ["exact", "teacher"])
def test_the_gap_of_idlm_is_the_kl_of_student_and_data(fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """E[ELBO of the teacher] - E[ELBO of the fake] = KL(student || data) where both are exact, over two tokens.

    The schedule is off its ends by 1e-4 each; the integral over what lies between is that share of the whole. With the
    teacher as the fake network loss and gradient are exactly 0.
    """
    ctx, roles = make("masked")
    data = torch.rand(V, V, generator=Generator().manual_seed(1), dtype=torch.float64)
    data /= data.sum()
    step, weights, samples = every_step(ctx, roles["student"], data, (0.4, 1.0))
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    teacher = JointOracle(ctx.process, 2, data.flatten())
    auxiliary = JointOracle(ctx.process, 2, samples.flatten()) if fake == "exact" else teacher
    expected = Expected({"teacher": teacher, "auxiliary": auxiliary}, ctx.process, ctx.generators, ctx.device)
    expected.weights = weights
    monkeypatch.setattr("fewstep.objectives.dmmd.draw_step", lambda *args, **kwargs: None)
    monkeypatch.setattr("fewstep.objectives.dmmd.student_step", lambda *args, **kwargs: step)
    objective = DMMD(DMMD.Config(times="same", renoise="forward_soft", weighting="elbo", regulariser=0))
    batch = Batch(torch.zeros(1, 2, dtype=torch.long))
    loss = objective.loss(Phase("student", ("student",)), batch, expected).loss
    (gradient,) = torch.autograd.grad(loss, roles["student"].logits)
    if fake == "teacher":
        assert float(loss.detach()) == 0
        assert not gradient.any()
        return
    clean, noise = ctx.process.schedule.ends
    kl = float((samples * (samples / data).log()).sum())
    assert kl > 0.01
    assert float(loss.detach()) / (clean - noise) == pytest.approx(kl, abs=1e-10)
    assert gradient.any()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("independent", "s may lie after t when times are independent"),
        ("same", "nothing is drawn anew from t to s when both are the same"),
    ],
)
def test_neighbours_are_refused_where_they_make_no_sense(times: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        load_recipe("markov-idlm", ["teacher={run: runs/x}", f"objective.times={times}", "objective.renoise=posterior"])

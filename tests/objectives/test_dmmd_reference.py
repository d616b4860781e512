"""D-MMD's losses and gradients against plain-Python float64 references on enumerable cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from enumerable_denoisers import L, TimedOracle, V, make, row, run
from torch import Generator, Tensor

from fewstep.objectives.base import Batch, Phase
from fewstep.objectives.dmmd import DMMD
from fewstep.predictions.base import Prediction


@pytest.mark.parametrize("weighting", ["constant", "elbo"])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_student_loss_and_gradient(process: str, weighting: str) -> None:
    ctx, roles = make(process)
    objective = DMMD(DMMD.Config(k=3, weighting=weighting))
    loss, _ = run(ctx, roles, objective, "student")
    student, teacher, auxiliary = roles["student"], roles["teacher"], roles["auxiliary"]
    (z_t, _), (z_s, s) = student.calls[0], teacher.calls[0]
    expected, gradient = 0.0, torch.zeros_like(student.logits)
    weights = ctx.process.schedule.elbo_weight(s) if weighting == "elbo" else torch.ones_like(s)
    for b in range(len(z_t)):
        for i in range(L):
            if process == "masked" and z_s[b, i] != V:
                continue
            p = row(student, z_t[b].tolist(), i)
            r = [
                math.log(a) - math.log(q)
                for a, q in zip(row(auxiliary, z_s[b].tolist(), i), row(teacher, z_s[b].tolist(), i), strict=True)
            ]
            share = float(weights[b]) / (len(z_t) * L)
            mean = sum(pc * rc for pc, rc in zip(p, r, strict=True))
            expected += share * mean
            index = int(student.index(z_t[b : b + 1]))
            for c in range(V):
                gradient[index, i, c] += share * p[c] * (r[c] - mean)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    loss.backward()
    torch.testing.assert_close(student.logits.grad, gradient, rtol=1e-6, atol=1e-9)
    assert teacher.logits.grad is None
    assert auxiliary.logits.grad is None


@pytest.mark.parametrize(("process", "target"), [("masked", "soft"), ("masked", "hard"), ("uniform", "hard")])
def test_auxiliary_loss_and_gradient(process: str, target: str) -> None:
    ctx, roles = make(process)
    objective = DMMD(DMMD.Config(k=3, aux_target=target, regulariser=0.7))
    loss, x = run(ctx, roles, objective, "auxiliary")
    student, teacher, auxiliary = roles["student"], roles["teacher"], roles["auxiliary"]
    (z_t, _), (z_s, _) = student.calls[0], teacher.calls[0]
    expected, gradient = 0.0, torch.zeros_like(auxiliary.logits)
    share = 1 / (len(z_t) * L)
    for b in range(len(z_t)):
        for i in range(L):
            if process == "masked" and z_s[b, i] != V:
                continue
            soft = row(student, z_t[b].tolist(), i)
            wanted = soft if target == "soft" else [float(c == int(x[b, i])) for c in range(V)]
            near = row(teacher, z_s[b].tolist(), i)
            q = row(auxiliary, z_s[b].tolist(), i)
            index = int(auxiliary.index(z_s[b : b + 1]))
            for c in range(V):
                expected -= share * (wanted[c] + 0.7 * near[c]) * math.log(q[c])
                gradient[index, i, c] += share * (1.7 * q[c] - wanted[c] - 0.7 * near[c])
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    loss.backward()
    torch.testing.assert_close(auxiliary.logits.grad, gradient, rtol=1e-6, atol=1e-9)
    assert student.logits.grad is None
    assert teacher.logits.grad is None


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_targets_follow_the_process_when_auto(process: str) -> None:
    chosen = {"masked": "soft", "uniform": "hard"}[process]
    losses = []
    for target in ("auto", chosen):
        ctx, roles = make(process)
        losses.append(run(ctx, roles, DMMD(DMMD.Config(aux_target=target)), "auxiliary")[0])
    assert torch.equal(losses[0], losses[1])


def gradient_at_fixed_point(process: str, phase: str, **settings: object) -> tuple[Tensor, float]:
    """Gradient at student = teacher = auxiliary = E[x | z] of one token, and the spread of its noise."""
    ctx, roles = make(process, length=1)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    data = torch.multinomial(law, 200_000, replacement=True, generator=Generator().manual_seed(5))[:, None]
    ctx.roles = {name: TimedOracle(ctx.process, law) for name in roles}
    loss = DMMD(DMMD.Config(k=4, **settings)).loss(Phase(phase, (phase,)), Batch(data), ctx).loss
    (gradient,) = torch.autograd.grad(loss, ctx.roles[phase].bias)  # type: ignore[arg-type]
    return gradient, 1 / math.sqrt(len(data))


@pytest.mark.parametrize("phase", ["student", "auxiliary"])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_fixed_point(process: str, phase: str) -> None:
    """At the fixed point neither player moves, in expectation."""
    gradient, spread = gradient_at_fixed_point(process, phase)
    assert gradient.abs().max() < 5 * spread


IDLM = {"renoise": "forward_soft", "times": "independent", "weighting": "elbo", "regulariser": 0.0, "min_time": 0.02}


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
@pytest.mark.parametrize(
    "settings",
    [
        {"renoise": "posterior"},
        {"renoise": "posterior", "times": "grid"},
        {"renoise": "posterior", "times": "grid", "below_end": 0.5},
        {"renoise": "forward"},
        {"renoise": "forward_soft"},
        {"renoise": "forward", "times": "start"},
        {"renoise": "forward_soft", "times": "independent"},
        IDLM,
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.parametrize("target", ["auto", "hard"])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_every_pairing_rests_at_the_fixed_point(
    process: str, target: str, settings: dict[str, Any], updates: str, loss: str
) -> None:
    """Each player's gradient at the optimum is 0 within five standard errors of its mean over batches."""
    phases = ["both"] if updates == "simultaneous" else ["student", "auxiliary"]
    config = DMMD.Config(k=4, aux_target=target, updates=updates, loss=loss, **settings)
    for name in ("student", "auxiliary"):
        gradients = torch.stack(
            [gradient_of(process, config, name, phases, seed) for seed in range(10)]
        )  # [repeats, states, V]
        error = gradients.std(0) / len(gradients) ** 0.5
        assert (gradients.mean(0).abs() <= 5 * error + 1e-12).all()


def gradient_of(process: str, config: DMMD.Config, role: str, phases: list[str], seed: int) -> Tensor:
    """Gradient of one role at the fixed point on one batch of 2,000 tokens, in the phase that trains it."""
    ctx, roles = make(process, length=1)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    streams = {name: Generator().manual_seed(3 * seed + i) for i, name in enumerate(("time", "noise", "sample"))}
    data = torch.multinomial(law, 2_000, replacement=True, generator=Generator().manual_seed(seed))[:, None]
    ctx.roles, ctx.generators = {name: TimedOracle(ctx.process, law) for name in roles}, streams
    phase = Phase("both", ("student", "auxiliary")) if phases == ["both"] else Phase(role, (role,))
    for name, network in ctx.roles.items():
        network.requires_grad_(name in phase.train)
    loss = DMMD(config).loss(phase, Batch(data), ctx).loss
    (gradient,) = torch.autograd.grad(loss, ctx.roles[role].bias)  # type: ignore[arg-type]
    return gradient


def test_soft_targets_are_biased_for_the_uniform_process() -> None:
    """Why hard targets are forced there, and proof that the fixed-point test can fail."""
    gradient, spread = gradient_at_fixed_point("uniform", "auxiliary", aux_target="soft")
    assert gradient.abs().max() > 10 * spread


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_simultaneous_updates_have_the_gradients_of_separate_ones(process: str) -> None:
    """Both losses share their draws, and neither leaks into the other's network."""
    separate = {}
    for phase in ("student", "auxiliary"):
        ctx, roles = make(process)
        run(ctx, roles, DMMD(DMMD.Config()), phase)[0].backward()
        separate[phase] = roles[phase].logits.grad
    ctx, roles = make(process)
    objective = DMMD(DMMD.Config(updates="simultaneous"))
    (both,) = objective.phases()
    data = torch.randint(V, (64, L), generator=Generator().manual_seed(7))
    objective.loss(both, Batch(data), ctx).loss.backward()
    for phase, gradient in separate.items():
        torch.testing.assert_close(roles[phase].logits.grad, gradient)
    assert roles["teacher"].logits.grad is None


def test_student_and_auxiliary_are_told_the_step_of_a_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it ends, and not where it is judged: the last step, to 0, would never be heard of in training."""
    ctx, roles = make("masked")
    told: dict[str, tuple[Tensor, Tensor]] = {}

    def listen(name: str) -> None:
        predict = roles[name].predict

        def spy(x_t: Tensor, t: Tensor, s: Tensor | None, *rest: Any) -> Prediction:
            assert s is not None
            told[name] = t, s
            return predict(x_t, t, s, *rest)

        monkeypatch.setattr(roles[name], "predict", spy)

    listen("student")
    listen("auxiliary")
    run(ctx, roles, DMMD(DMMD.Config(k=2)), "student")
    t, end = told["student"]
    assert torch.allclose(end, (t - 0.5).clamp_min(0))
    assert (end == 0).any()
    s, below = told["auxiliary"]
    assert torch.allclose(s - below, t - end, atol=1e-6)

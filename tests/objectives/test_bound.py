"""The bound of `denoising: {loss: bound}` against exact likelihoods: sums over states, integrals over time."""

from __future__ import annotations

import itertools

import pytest
import torch
from enumerable_denoisers import ExactRows, Table
from noised_laws import kernel, level
from torch import Generator, Tensor

from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.objectives.matching.losses import matching_loss
from fewstep.objectives.parts.bound import bound
from fewstep.processes.base import PROCESSES, DiscreteProcess

V, L = 3, 2
STATES = torch.tensor(list(itertools.product(range(V), repeat=L)))
POINTS = 200


def law() -> Tensor:
    table = torch.tensor([[0.4, 0.02, 0.08], [0.03, 0.2, 0.02], [0.1, 0.05, 0.1]], dtype=torch.float64)
    return table / table.sum()


def uniform(schedule: str = "log_linear", eps: float = 0.0) -> DiscreteProcess:
    process = PROCESSES.build({"type": "uniform", "schedule": {"type": schedule, "eps": eps}}, vocab_size=V)
    assert isinstance(process, DiscreteProcess)
    return process


def integrand(process: DiscreteProcess, network: ExactRows, *times: float) -> Tensor:
    """Mean over z_t of what each time adds to the bound of each sequence, summed over its tokens: [T, V ** L]."""
    n = len(STATES)
    tokens = torch.stack([kernel(process, level(process.schedule, t)) for t in times])
    chance = tokens[:, STATES[:, None], STATES[None]].prod(3)  # q(z | x), [T, x, z]
    x0, z = STATES.repeat_interleave(n, 0).repeat(len(times), 1), STATES.repeat(n * len(times), 1)
    t = torch.tensor(times, dtype=torch.float64).repeat_interleave(n * n)
    values = bound(process, network(z, t), x0, z, t).sum(1)
    return (chance * values.view(len(times), n, n)).sum(2)


def integral(process: DiscreteProcess, network: ExactRows) -> Tensor:
    """The bound of each sequence, by the midpoint rule in u with t = u^3: it changes fastest near t = 0."""
    u = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    return (3 * u[:, None] ** 2 * integrand(process, network, *(u**3).tolist())).detach().mean(0)


@pytest.mark.parametrize("output", ["leave_one_out", "x_mean"])
@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
def test_exact_networks_are_tight_for_every_sequence(schedule: str, output: str) -> None:
    """Their reverse rates are the true ones, so their paths have the distribution of the data's."""
    process = uniform(schedule)
    found = integral(process, ExactRows(process, law(), output))
    torch.testing.assert_close(found, -law().flatten().log(), rtol=2e-3, atol=2e-3)


def test_other_networks_lie_above() -> None:
    process, probs = uniform(), law().flatten()
    entropy = -float((probs * probs.log()).sum())
    independent = law().sum(1)[:, None] * law().sum(0)
    for network in (ExactRows(process, independent), ExactRows(process, law())):
        if network.law is not None and torch.equal(network.law, probs):
            with torch.no_grad():
                network.bias.add_(0.3 * torch.randn(network.bias.shape, generator=Generator().manual_seed(0)))
        assert float((probs * integral(process, network)).sum()) > entropy + 0.02


@pytest.mark.parametrize("output", ["leave_one_out", "x_mean"])
@pytest.mark.parametrize("t", [0.02, 0.4, 0.95])
def test_its_gradient_is_zero_at_the_exact_network(t: float, output: str) -> None:
    process = uniform()
    network = ExactRows(process, law(), output)
    loss = (law().flatten() * integrand(process, network, t)).sum()
    (gradient,) = torch.autograd.grad(loss, network.bias)
    assert float(gradient.abs().max()) < 1e-10
    other = ExactRows(process, law().T.contiguous() if output == "x_mean" else law().flip(0), output)
    (gradient,) = torch.autograd.grad((law().flatten() * integrand(process, other, t)).sum(), other.bias)
    assert float(gradient.abs().max()) > 1e-4


@pytest.mark.parametrize("t", [0.02, 0.4, 0.95])
def test_the_posterior_rests_at_the_exact_network_too(t: float) -> None:
    """`loss: posterior`, in both parametrisations."""
    process = uniform()
    weights = law().flatten()[:, None] * kernel(process, level(process.schedule, t))[STATES[:, None], STATES].prod(2)
    x0, z = STATES.repeat_interleave(len(STATES), 0), STATES.repeat(len(STATES), 1)
    times = torch.full((len(z),), t, dtype=torch.float64)
    for output in ("leave_one_out", "x_mean"):
        network = ExactRows(process, law(), output)
        form = matching_loss("posterior", process, z, times, 0.01)
        values = form.fit(x0, process.leave_one_out(network(z, times), z, times)).sum(1)
        (gradient,) = torch.autograd.grad((weights.flatten() * values).sum(), network.bias)
        assert float(gradient.abs().max()) < 1e-9


def test_terms_agree_with_the_formula_of_the_paper() -> None:
    """Duo's: alpha' / (V alpha) [V / x_z - V / p_z - sum_j x_j / x_z log(p_z x_j / (p_j x_z))], of scaled levels."""
    process, rng = uniform("log_linear", 1e-3), Generator().manual_seed(0)
    network = ExactRows(process, law())
    with torch.no_grad():
        network.bias.normal_(generator=rng)
    x0, z = (torch.randint(V, (200, L), generator=rng) for _ in range(2))
    t = torch.rand(200, generator=rng, dtype=torch.float64)
    prediction = network(z, t)
    alpha = process.schedule.alpha(t)[:, None, None]
    x, p = (
        V * alpha * rows + 1 - alpha
        for rows in (torch.nn.functional.one_hot(x0, V).double(), prediction.output.dense_probs())
    )
    x_z, p_z = (rows.gather(2, z[..., None]) for rows in (x, p))
    inner = V / x_z - V / p_z - (x / x_z * (p_z * x / (p * x_z)).log()).sum(-1, keepdim=True)
    expected = (process.schedule.alpha_prime(t)[:, None, None] / (V * alpha) * inner)[..., 0]
    torch.testing.assert_close(bound(process, prediction, x0, z, t), expected)


def test_the_objective_is_its_mean_and_stays_finite_at_the_ends() -> None:
    process = uniform()
    network = ExactRows(process, law())
    x0 = STATES[torch.multinomial(law().flatten(), 100_000, replacement=True, generator=Generator().manual_seed(1))]
    streams = {name: Generator().manual_seed(seed) for seed, name in enumerate(("time", "noise", "sample"))}
    ctx = StepContext({"student": network}, process, streams, torch.device("cpu"))
    objective = Denoising(Denoising.Config(loss="bound", min_time=0.05))
    loss = objective.loss(Phase("train", ("student",)), Batch(x0), ctx).loss.detach()
    times = (0.05 + 0.95 * (torch.arange(POINTS) + 0.5) / POINTS).tolist()
    expected = float((law().flatten() * integrand(process, network, *times).detach()).sum(1).mean()) / L
    assert float(loss) == pytest.approx(expected, rel=0.02)
    for t in (0.0, 1e-12, 1.0):
        now = torch.full((len(STATES),), t)
        values = bound(process, network(STATES, now), STATES.flip(1), STATES, now)
        gradient = torch.autograd.grad(values.sum(), network.bias)[0]
        assert t == 0 or (bool(values.isfinite().all()) and bool(gradient.isfinite().all())), t


def test_with_masks_it_is_the_weighted_cross_entropy() -> None:
    process = PROCESSES.build("masked", vocab_size=V)
    assert isinstance(process, DiscreteProcess)
    z = torch.tensor([[0, V], [V, V], [2, 1]])
    t = torch.tensor([0.2, 0.5, 1.0])
    prediction = Table(process, 0)(z, t)
    x0 = torch.tensor([[0, 1], [2, 2], [2, 1]])
    expected = process.schedule.elbo_weight(t)[:, None] * prediction.nll(x0)
    found = bound(process, prediction, x0, z, t)
    torch.testing.assert_close(found, expected, check_dtype=False, rtol=1e-5, atol=1e-6)

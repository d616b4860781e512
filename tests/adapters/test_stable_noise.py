"""Noise at the logits with an exact law: E[p] = softmax(l), for every symbol, and in every network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fewstep.adapters.noise.base import NOISE_INPUTS
from fewstep.adapters.noise.stable import StableNoise, exact_logits, log_stable
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import RecipeError
from fewstep.denoisers.latents import LatentAverage
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.logit_noise import LogitNoise, NoisyPrediction
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import temperature
from fewstep.processes.base import PROCESSES
from fewstep.recipe import parse_recipe
from fewstep.runtime.streams import SampleStreams

V = 7
LOG_P = torch.tensor([0.35, 0.25, 0.15, 0.1, 0.08, 0.05, 0.02]).log()


class Grid(SampleStreams):
    """Uniform numbers that are the midpoints of a square grid, the number of whose cells is that of the pairs."""

    def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        side = math.isqrt(shape[0])
        line = (torch.arange(side, dtype=dtype) + 0.5) / side
        return torch.cartesian_prod(line, line).view(*shape)


@pytest.mark.parametrize(
    ("alpha", "settings"),
    [(0.3, {}), (0.5, {}), (0.7, {}), (0.5, {"numbers": 3}), (0.5, {"top_k": 2}), (0.5, {"top_k": 4, "numbers": 3})],
)
def test_the_mean_of_rows_is_the_row_itself(alpha: float, settings: dict[str, int]) -> None:
    """A million draws: the mean of a number between 0 and 1 has a standard deviation of at most .0005."""
    count = min(settings.get("numbers", V), V) + ("top_k" in settings)
    total, generator = torch.zeros(V, dtype=torch.float64), Generator().manual_seed(0)
    for _ in range(10):
        zeta = log_stable((100_000, count), alpha, generator, device="cpu")
        rows = exact_logits(LOG_P.expand(len(zeta), V), zeta, alpha=alpha, top_k=settings.get("top_k"))
        total += rows.softmax(1).double().sum(0)
    assert (total / 1e6 - LOG_P.exp()).abs().max() < 1e-3


@pytest.mark.parametrize("odds", [0.01, 0.5, 1.0, 3.0, 40.0])
def test_two_symbols_have_their_odds_exactly(odds: float) -> None:
    """At alpha = 1/2 the difference of two numbers is 2 log tan(theta) of an angle spread evenly over (0, pi / 2)."""
    theta = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 * math.pi / 2
    log_p = torch.tensor([odds, 1.0], dtype=torch.float64).log().log_softmax(0).expand(len(theta), 2)
    zeta = torch.stack((-2 * theta.sin().log(), -2 * theta.cos().log()), 1)
    mean = exact_logits(log_p, zeta, alpha=0.5).softmax(1).mean(0)
    assert float(mean[0]) == pytest.approx(odds / (1 + odds), abs=1e-10)


@pytest.mark.parametrize("alpha", [0.2, 0.49, 0.7, 0.9])
def test_stable_noise_and_a_gumbel_variable_are_a_gumbel_variable(alpha: float) -> None:
    """P(zeta + G <= y) = E exp(-S e^-y) = exp(-e^(-alpha y)), the law of G / alpha; from a grid of Kanter's numbers."""
    side = 1000
    zeta = log_stable((side**2,), alpha, Grid(0, range(side**2)), device="cpu", dtype=torch.float64)
    for y in (-2.0, 0.0, 1.5):
        assert float((-(zeta - y).exp()).exp().mean()) == pytest.approx(math.exp(-math.exp(-alpha * y)), abs=1e-3)


def test_half_has_the_law_of_its_neighbours() -> None:
    """P(S > u) of S = 1 / (2 N^2) is erf(1 / (2 sqrt u)); the general form at nearly 1/2 has the same quartiles."""
    draws = [log_stable((100_000,), a, Generator().manual_seed(1), device="cpu") for a in (0.5, 0.500001)]
    levels = torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(draws[0].quantile(levels), draws[1].quantile(levels), atol=0.05, rtol=0)
    share = float((draws[0] > 0).float().mean())
    assert share == pytest.approx(math.erf(0.5), abs=0.006)


def test_extreme_draws_are_finite() -> None:
    """Levels of 0 and just below 1 give numbers, in both precisions."""

    class Ends(SampleStreams):
        def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            ends = torch.tensor([0.0, 1.0], dtype=dtype)
            ends[1] -= torch.finfo(dtype).eps / 2
            return torch.cartesian_prod(ends, ends).view(*shape)

        def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            return torch.zeros(*shape, dtype=dtype)

    for dtype in (torch.float32, torch.float64):
        for alpha in (0.01, 0.3, 0.5, 0.99):
            assert log_stable((4,), alpha, Ends(0, range(4)), device="cpu", dtype=dtype).isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"numbers": 3}, {"top_k": 2}, {"top_k": 2, "numbers": 3}])
def test_gradients_and_impossible_symbols(settings: dict[str, int]) -> None:
    """Classes without a symbol, and symbols of probability 0, give no nan; what is impossible stays so."""
    log_p = torch.stack((LOG_P, LOG_P, LOG_P))
    log_p[1, 3:], log_p[2, 1:] = -torch.inf, -torch.inf
    log_p = log_p.log_softmax(1).requires_grad_()
    count = min(settings.get("numbers", V), V) + ("top_k" in settings)
    zeta = log_stable((3, count), 0.5, Generator().manual_seed(2), device="cpu")
    rows = exact_logits(log_p, zeta, alpha=0.5, top_k=settings.get("top_k")).softmax(1)
    assert torch.equal(rows == 0, log_p == -torch.inf)
    torch.testing.assert_close(rows.sum(1), torch.ones(3))
    rows[0].square().sum().backward()
    assert log_p.grad is not None
    assert log_p.grad.isfinite().all()
    assert log_p.grad[0].any()


def test_symbols_of_a_class_keep_their_ratios() -> None:
    zeta = log_stable((50, 3), 0.5, Generator().manual_seed(3), device="cpu")
    rows = exact_logits(LOG_P.expand(50, V), zeta, alpha=0.5).log_softmax(1)
    for a, b in ((0, 3), (3, 6), (1, 4)):
        torch.testing.assert_close(rows[:, a] - rows[:, b], (LOG_P[a] - LOG_P[b]).expand(50))
    assert (rows[:, 0] - rows[:, 1]).std() > 1


def test_rows_of_a_noisy_prediction_do_not_depend_on_how_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator().manual_seed(4)
    table = torch.randn(3, 5, V, generator=generator, dtype=torch.float64).log_softmax(-1)
    where = torch.rand(3, 5, generator=generator) < 0.7
    noise = StableNoise(StableNoise.Config(), tokens=TokenSpace(V + 1, V, 5), width=4, sites=1).draw(3, generator)
    assert noise.logits is not None
    prediction = NoisyPrediction(TablePrediction(table, torch.zeros(3, 5).long(), where), noise.logits)
    dense = (table / 0.5 + noise.logits.numbers).log_softmax(-1)
    torch.testing.assert_close(prediction.log_probs(), dense[where])
    sharp = prediction.shaped(temperature(0.5))
    torch.testing.assert_close(sharp.log_probs(), (2 * dense).log_softmax(-1)[where])
    weights = prediction.unnormalised(prediction.source(where))
    torch.testing.assert_close((weights / weights.sum(1, keepdim=True)).log(), dense[where])
    whole = prediction.entropy()
    monkeypatch.setattr("fewstep.predictions.base.CHUNK_ELEMENTS", 2 * V)
    torch.testing.assert_close(prediction.entropy(), whole)
    ids = prediction.sample(generator=Generator().manual_seed(5))
    assert torch.equal(ids[~where], torch.zeros_like(ids)[~where])


def network(backbone: dict[str, Any], length: int = 6, **settings: Any) -> NetworkDenoiser:
    torch.manual_seed(0)
    process = PROCESSES.build("masked", vocab_size=4)
    tokens = TokenSpace(process.num_states, 4, length, (2, length // 2, 1))
    trunk = BACKBONES.build(backbone, tokens=tokens)
    config = NOISE_INPUTS.parse({"type": "stable", **settings})
    noise = NOISE_INPUTS.build(config, tokens=tokens, width=trunk.width, sites=trunk.residual_sites)
    model = NetworkDenoiser(trunk, process, noise).eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


SMALL = {"width": 8, "depth": 1, "heads": 2}
BACKBONE = [
    {"type": "transformer", **SMALL},
    {"type": "dit", **SMALL},
    {"type": "image_transformer", **SMALL},
]


@pytest.mark.parametrize("backbone", BACKBONE, ids=lambda b: str(b["type"]))
@pytest.mark.parametrize("settings", [{}, {"beside": {"type": "pyramid", "init_std": 0.0, "inject": "every_block"}}])
def test_a_student_starts_at_its_teachers_law(backbone: dict[str, Any], settings: dict[str, Any]) -> None:
    """20,000 latents of a silent projection: the mean is known within .0035; each component is another row."""
    model = network(backbone, **settings)
    states, t = torch.tensor([[4, 0, 4, 1, 4, 2]]), torch.tensor([0.6])
    noise, model.noise_input = model.noise_input, None
    plain = model(states, t).log_probs().exp()
    model.noise_input = noise
    streams = SampleStreams(0, range(1))
    with torch.no_grad():
        one = model(states, t, generator=streams).log_probs().exp()
        mean = LatentAverage(model, 20_000)(states, t, generator=streams).log_probs().exp()
    assert (one - plain).abs().max() > 0.1
    torch.testing.assert_close(mean, plain, atol=0.012, rtol=0)


def test_samples_have_numbers_of_their_own_however_batches_are_divided() -> None:
    model = network(BACKBONE[0], init_std=0.3)
    states, t = torch.full((5, 6), 4), torch.ones(5)
    whole = model(states, t, generator=SampleStreams(0, range(5))).log_probs()
    parts = [
        model(states[a:b], t[a:b], generator=SampleStreams(0, range(a, b))).log_probs() for a, b in ((0, 2), (2, 5))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_the_noise_of_one_prediction_serves_another() -> None:
    """Common random numbers: a table with the network's noise has the network's numbers."""
    model = network(BACKBONE[0])
    states = torch.full((2, 6), 4)
    noisy = model(states, torch.ones(2), generator=SampleStreams(0, range(2)))
    assert isinstance(noisy, NoisyPrediction)
    table = noisy.plain.log_probs().view(2, 6, 4)
    other = NoisyPrediction(TablePrediction(table, states, noisy.where), noisy.noise)
    torch.testing.assert_close(other.log_probs(), noisy.log_probs())


def recipe(**changes: Any) -> None:
    raw = {
        "name": "x",
        "data": "markov",
        "process": "masked",
        "backbone": "transformer",
        "objective": "dmmd",
        "teacher": {"run": "runs/x"},
        "noise_input": "stable",
        "train": {"steps": 10},
    }
    parse_recipe({**raw, **changes})


def test_recipes_that_do_not_go_with_it_are_refused() -> None:
    recipe()
    recipe(noise_input={"type": "stable", "beside": "pyramid"}, process="uniform")
    with pytest.raises(RecipeError, match=r"noise_input\.type: noise at the logits is for rows of p\(x \| z_t\)"):
        recipe(process="uniform", output="leave_one_out")
    with pytest.raises(RecipeError, match=r"noise_input\.beside: 'stable' is noise at the logits too"):
        recipe(noise_input={"type": "stable", "beside": "stable"})
    with pytest.raises(RecipeError, match="alpha"):
        recipe(noise_input={"type": "stable", "alpha": 1.0})


def test_networks_without_the_hook_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkDenoiser, "takes_logit_noise", False)
    with pytest.raises(RecipeError, match=r"noise_input\.type: 'stable' is noise at the logits, and networks of"):
        recipe()
    recipe(noise_input="gaussian")


def test_noise_keeps_to_its_tokens() -> None:
    """After a prefix the rows of a block have the numbers of its places."""
    noise = LogitNoise(torch.arange(12.0).view(1, 6, 2), lambda rows, numbers: rows + numbers)
    assert torch.equal(noise.select(slice(2, 4)).numbers, torch.tensor([[[4.0, 5], [6, 7]]]))

"""What a network's output means, and the exact way from leave-one-out rows to E[x | z_t], on laws that are enumerated.

Shapes: B states, L tokens, V vocabulary.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from enumerable_denoisers import ExactRows
from noised_laws import counts
from torch import Generator, Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.derivative import directional_derivative
from fewstep.denoisers.guidance import GuidedPrediction, guided
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.likelihood.step_costs import drawn_rows
from fewstep.predictions import base as module
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.condition import Condition
from fewstep.predictions.evidence import LeaveOneOutPrediction
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import shape
from fewstep.processes.base import PROCESSES, DiscreteProcess, posterior_rows
from fewstep.samplers.base import SAMPLERS

V, L = 3, 2
STATES = torch.tensor(list(itertools.product(range(V), repeat=L)))


def law() -> Tensor:
    """A joint distribution of two tokens that depend on each other."""
    table = torch.tensor([[0.4, 0.02, 0.08], [0.03, 0.2, 0.02], [0.1, 0.05, 0.1]], dtype=torch.float64)
    return table / table.sum()


def uniform(size: int = V) -> DiscreteProcess:
    return PROCESSES.build("uniform", vocab_size=size)  # type: ignore[return-value]


def both(t: Tensor) -> tuple[Prediction, Prediction]:
    """Predictions from every state at t: of a leave-one-out network, and of one that predicts E[x | z_t]."""
    process = uniform()
    leave_one_out, mean = (ExactRows(process, law(), output) for output in ("leave_one_out", "x_mean"))
    return leave_one_out(STATES, t), mean(STATES, t)


@pytest.mark.parametrize("time", [1e-7, 1e-3, 0.3, 0.9, 1.0])
def test_leave_one_out_rows_and_the_evidence_make_the_mean(time: float) -> None:
    t = torch.full((len(STATES),), time, dtype=torch.float64)
    converted, mean = both(t)
    torch.testing.assert_close(converted.log_probs(), mean.log_probs(), rtol=1e-9, atol=1e-9)
    back = uniform().leave_one_out(mean, STATES, t)
    torch.testing.assert_close(back.log_probs(), converted.output.log_probs(), rtol=1e-9, atol=1e-9)
    assert uniform().leave_one_out(converted, STATES, t) is converted.output
    torch.testing.assert_close(uniform().from_leave_one_out(back, STATES, t).log_probs(), mean.log_probs())


def test_each_position_may_have_a_time_of_its_own() -> None:
    t = torch.rand(len(STATES), L, generator=Generator().manual_seed(0), dtype=torch.float64)
    converted, mean = both(t)
    torch.testing.assert_close(converted.log_probs(), mean.log_probs(), rtol=1e-9, atol=1e-9)


def test_at_time_0_the_state_itself_is_certain_unless_it_was_cut() -> None:
    """All other symbols have evidence 0 there, and rows that top-p cut may leave none with any."""
    process = PROCESSES.build({"type": "uniform", "schedule": "log_linear"}, vocab_size=V)
    table = torch.tensor([[[0.7, 0.2, 0.1]]], dtype=torch.float64).log()
    known, zero = torch.tensor([[1]]), torch.zeros(1)
    output = TablePrediction(table, known, torch.ones(1, 1, dtype=torch.bool))
    prediction = process.from_leave_one_out(output, known, zero)  # type: ignore[attr-defined]
    torch.testing.assert_close(prediction.dense_probs(), torch.tensor([[[0.0, 1.0, 0.0]]], dtype=torch.float64))
    cut = shape(prediction, top_p_=0.5)
    torch.testing.assert_close(cut.dense_probs(), torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64))


def test_with_masks_both_meanings_are_one() -> None:
    process = PROCESSES.build("masked", vocab_size=V)
    x = torch.tensor([[0, V]])
    output = TablePrediction(torch.randn(1, 2, V).log_softmax(-1), x, process.to_predict(x))
    assert process.from_leave_one_out(output, x, torch.ones(1)) is output  # type: ignore[attr-defined]
    assert process.leave_one_out(output, x, torch.ones(1)) is output  # type: ignore[attr-defined]


def networks(size: int = 5, length: int = 6) -> tuple[NetworkDenoiser, NetworkDenoiser]:
    """The same weights, read as E[x | z_t] and as leave-one-out rows."""
    pair = []
    for output in ("x_mean", "leave_one_out"):
        torch.manual_seed(0)
        config = {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "time_conditioned": True}
        backbone = BACKBONES.build(config, tokens=TokenSpace(size, size, length))
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        network = NetworkDenoiser(backbone, uniform(size)).eval()
        network.output = output  # type: ignore[assignment]
        pair.append(network)
    return pair[0], pair[1]


def inputs(size: int = 5, length: int = 6) -> tuple[Tensor, Tensor]:
    rng = Generator().manual_seed(1)
    return torch.randint(size, (4, length), generator=rng), torch.rand(4, generator=rng)


def test_a_network_converts_its_rows_once() -> None:
    plain, converting = networks()
    z, t = inputs()
    weighted = plain(z, t).dense_probs() * plain.process.evidence(z, t).float()
    expected = weighted / weighted.sum(-1, keepdim=True)
    torch.testing.assert_close(converting(z, t).dense_probs(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(converting(z, t).output.dense_probs(), plain(z, t).dense_probs())


def test_gradients_reach_the_network_also_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = networks()
    z, t = inputs()
    results = []
    for elements in (1 << 25, 8 * 5):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
        loss = network(z, t).nll(z).sum()
        results.append(torch.autograd.grad(loss, list(network.parameters())))
    torch.testing.assert_close(results[0], results[1])
    assert any(g.abs().max() > 0 for g in results[0])


def test_forward_mode_goes_through_the_conversion() -> None:
    _, network = networks()
    z, t = inputs()
    parameters = dict(network.named_parameters())
    rows = network(z, t).log_probs()
    direction, weights = {name: torch.randn_like(p) for name, p in parameters.items()}, torch.randn_like(rows)
    gradients = torch.autograd.grad((rows * weights).sum(), list(parameters.values()))
    expected = sum((g * direction[name]).sum() for g, name in zip(gradients, parameters, strict=True))
    network.requires_grad_(False)
    change = directional_derivative(network, direction, z, t)
    torch.testing.assert_close((change.log_probs() * weights).sum(), expected, rtol=1e-3, atol=1e-3)


def test_temperature_and_top_p_act_before_the_evidence() -> None:
    t = torch.full((len(STATES),), 0.5, dtype=torch.float64)
    converted, _ = both(t)
    process = uniform()
    for settings in ({"temperature_": 0.5}, {"top_p_": 0.6}, {"temperature_": 2.0, "top_p_": 0.9}):
        shaped = shape(converted, **settings)
        rows = shape(converted.output, **settings)
        weighted = rows.dense_probs() * process.evidence(STATES, t)
        torch.testing.assert_close(shaped.dense_probs(), weighted / weighted.sum(-1, keepdim=True))
        torch.testing.assert_close(shaped.output.dense_probs(), rows.dense_probs())
        scores = rowwise(lambda p: p.exp().amax(1), [shaped], where=shaped.where)
        torch.testing.assert_close(scores, shaped.dense_probs().amax(-1))


def test_a_clock_stays_with_the_prediction() -> None:
    table = torch.zeros(1, 1, V).log_softmax(-1)
    output = TablePrediction(table, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))
    output.clock = lambda time: time[:, None] ** 2
    prediction = uniform().from_leave_one_out(output, output.known, torch.ones(1))
    for each in (prediction, prediction.shaped(lambda p: p), prediction.shaped(lambda p: p).output):
        assert each.clock is output.clock


def test_guidance_and_the_conversion_commute() -> None:
    """The evidence is the same with and without a label, so it is a factor of p_label^w p_none^(1 - w)."""
    process, z = uniform(), STATES
    t = torch.full((len(z),), 0.4, dtype=torch.float64)
    tables = {label: torch.randn(len(z), L, V, dtype=torch.float64).log_softmax(-1) for label in (0, -1)}

    class Labelled(ExactRows):
        def predict(
            self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
        ) -> Prediction:
            assert cond.labels is not None
            table = TablePrediction(tables[int(cond.labels[0])], x_t, process.to_predict(x_t))
            return process.from_leave_one_out(table, x_t, t)

    cond = Condition(labels=torch.zeros(len(z), dtype=torch.long))
    prediction = guided(Labelled(process, law()), z, t, weight=2.5, cond=cond)
    converted = [
        process.from_leave_one_out(TablePrediction(tables[label], z, process.to_predict(z)), z, t) for label in (0, -1)
    ]
    expected = GuidedPrediction(converted[0], converted[1], 2.5)
    torch.testing.assert_close(prediction.log_probs(), expected.log_probs())
    assert isinstance(prediction, LeaveOneOutPrediction), "so that temperature and top-p act on leave-one-out rows"


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.6), (0.5, 0.45), (0.2, 0.0)])
def test_plugging_leave_one_out_rows_in_is_drawing_from_the_mean(t: float, s: float) -> None:
    """Of each token the two rows q(z_s | z_t) are one; plugging E[x | z_t] in is another."""
    process, times = uniform(), torch.full((len(STATES),), t, dtype=torch.float64)
    converted, mean = both(times)
    z = STATES.flatten()
    each = [torch.full((len(z),), time, dtype=torch.float64) for time in (t, s)]
    plugged = posterior_rows(process, converted.output.log_probs().exp(), z, *each)
    drawn = drawn_rows(process, mean.log_probs().exp(), z, *each)
    torch.testing.assert_close(plugged, drawn, rtol=1e-9, atol=1e-12)
    if t < 1 and s > 0:  # at t = 1 a token says nothing
        assert bool(((posterior_rows(process, mean.log_probs().exp(), z, *each) - drawn).abs() > 0.003).any())


def apart(drawn: Tensor) -> float:
    """Total variation between samples and the law."""
    return float((counts(drawn, V).double() / len(drawn) - law().flatten()).abs().sum() / 2)


@pytest.mark.parametrize("posterior", ["drawn", "plugged"])
def test_samplers_read_what_the_network_means(posterior: str) -> None:
    network = ExactRows(uniform(), law())
    sampler = SAMPLERS.build({"type": "ancestral", "posterior": posterior})
    draw = {"steps": 48, "generator": Generator().manual_seed(0)}
    assert apart(sampler.sample(network, 20_000, **draw).x) < 0.02
    misread = ExactRows(uniform(), law())
    misread.process.from_leave_one_out = lambda prediction, x_t, t: prediction  # type: ignore[method-assign]
    if posterior == "drawn":
        assert apart(sampler.sample(misread, 5000, **draw).x) > 0.1


def test_samplers_shape_leave_one_out_rows_of_any_network() -> None:
    """A network of E[x | z_t] with `shaped: leave_one_out` draws what a leave-one-out network draws."""
    settings = {"type": "ancestral", "temperature": 0.5, "top_p": 0.9, "greedy_tail": 1}
    shares = []
    for output, shaped in (("leave_one_out", "output"), ("x_mean", "leave_one_out"), ("x_mean", "output")):
        sampler = SAMPLERS.build({**settings, "shaped": shaped})
        drawn = sampler.sample(ExactRows(uniform(), law(), output), 4000, steps=4, generator=Generator().manual_seed(0))
        shares.append(counts(drawn.x, V))
    assert torch.equal(shares[0], shares[1])
    assert not torch.equal(shares[0], shares[2])

"""Draws stay within the support at the edges of every precision, and refuse rows that are no distribution."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from enumerable_denoisers import Table, V
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from fewstep.core.errors import OperationError
from fewstep.denoisers.base import Denoiser
from fewstep.predictions import draws
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.draws import draw_at, pick, refused_at_end, sample_categorical
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import likeliest, row_maps, temperature
from fewstep.processes import uniform as uniform_module
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.runtime.streams import Randomness, SampleStreams
from fewstep.samplers import joint
from fewstep.samplers.base import SAMPLERS

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
LEVELS = [0.0, 5e-324, 2.0**-53, 0.25, 0.5, 1 - 2.0**-24, 1 - 2.0**-53, 1.0]
SIZES = st.sampled_from([1, 2, 3, 7, 1024, 1025, 1281, 2000])


@st.composite
def weight_rows(draw: st.DrawFn) -> Tensor:
    """Rows of weights, most of them 0, with the smallest, the largest and rounding numbers of a precision."""
    dtype, size = draw(st.sampled_from(DTYPES)), draw(SIZES)
    limits = torch.finfo(dtype)
    values = st.sampled_from(
        [limits.smallest_normal, limits.tiny * 1.5, limits.eps, 1 / 3, 0.1, 1 - limits.eps / 2, 1.0]
    )
    places = st.integers(0, size - 1) | st.sampled_from([0, size - 1, size // 256 * 256 - 1 if size > 255 else 0])
    support = draw(st.dictionaries(places, values, min_size=1, max_size=6))
    row = torch.zeros(size, dtype=dtype)
    for place, value in support.items():
        row[place] = value
    return row


@settings(max_examples=200, deadline=None, derandomize=True)
@given(weight_rows(), st.sampled_from(LEVELS) | st.floats(0, 1, exclude_max=True))
def test_a_draw_never_leaves_the_support(weights: Tensor, level: float) -> None:
    symbol = int(pick(weights[None], torch.tensor([level], dtype=torch.float64)))
    assert 0 <= symbol < len(weights)
    assert weights[symbol] > 0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.sampled_from([-math.inf, -1e4, -80.0, -1.0, -1e-7, 0.0]), min_size=2, max_size=6),
    st.sampled_from([5e-324, 1e-300, 1e-38, 1e-20, 1e-3, 1.0, 1e20, 1e300, math.inf]),
    st.sampled_from([1e-300, 1e-7, 0.5, 1 - 1e-7, 1.0]),
    st.booleans(),
    st.sampled_from(LEVELS),
)
def test_shaped_rows_are_distributions_over_the_same_support(
    dtype: torch.dtype, logits: list[float], heat: float, mass: float, greedy: bool, level: float
) -> None:
    if all(math.isinf(value) for value in logits):
        return
    log_p = shaped = torch.tensor([logits], dtype=dtype).log_softmax(-1)
    for row_map in row_maps(temperature_=heat, top_p_=mass, greedy=greedy):
        shaped = row_map(shaped)
    assert not shaped.isnan().any()
    assert float(shaped.double().exp().sum()) == pytest.approx(1, abs=0.02)
    symbol = int(draw_at(shaped, torch.tensor([level], dtype=torch.float64)))
    assert not log_p[0, symbol].isneginf()
    if greedy or heat < 1e-30:
        assert log_p[0, symbol] == log_p.max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_temperature_near_0_draws_the_likeliest_and_a_huge_one_any(dtype: torch.dtype) -> None:
    log_p = torch.tensor([[0.2, 0.5, 0.3, 0.0]], dtype=dtype).log()
    for heat in (5e-324, 1e-300, 1e-30):
        torch.testing.assert_close(temperature(heat)(log_p).exp(), torch.tensor([[0.0, 1, 0, 0]], dtype=dtype))
    for heat in (1e30, 1e300, math.inf):
        third = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0]], dtype=dtype)
        torch.testing.assert_close(temperature(heat)(log_p).exp(), third)


def assert_refused_at_end(log_p: Tensor, source: Randomness) -> None:
    """Draw twice, with ids of the vocabulary, before the refusal at the end."""
    collected = []
    try:
        with refused_at_end():
            collected = [sample_categorical(log_p, source), sample_categorical(torch.zeros_like(log_p), source)]
    except OperationError:
        for ids in collected:
            assert ((ids >= 0) & (ids < log_p.shape[-1])).all()
        assert len(collected) == 2
    else:
        pytest.fail("the row was not refused")


INVALID = {
    "nan": [math.nan, 0.5, 0.5],
    "nan last": [0.5, 0.5, math.nan],
    "infinite": [0.0, math.inf, 1.0],
    "nothing": [-math.inf] * 3,
}


@pytest.mark.parametrize("vocab", [3, 1500])
@pytest.mark.parametrize("row", INVALID.values(), ids=INVALID.keys())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("streams", [True, False])
def test_rows_that_are_no_distribution_are_refused(
    streams: bool, dtype: torch.dtype, row: list[float], vocab: int
) -> None:
    log_p = torch.full((2, 2, vocab), -math.inf, dtype=dtype)
    log_p[..., 0] = 0.0
    log_p[1, 1, :3] = torch.tensor(row)
    source: Randomness = SampleStreams(0, range(2)) if streams else Generator().manual_seed(0)
    with pytest.raises(OperationError, match=r"^tokens cannot be drawn: the predicted probabilities are not finite"):
        sample_categorical(log_p, source)
    assert_refused_at_end(log_p, source)


def test_greedy_rows_do_not_hide_what_is_not_finite() -> None:
    with pytest.raises(OperationError):
        sample_categorical(likeliest(torch.tensor([[0.1, math.nan]])), Generator())
    assert likeliest(torch.empty(0, 3)).shape == (0, 3)


def test_refusals_wait_for_the_end_once_and_then_are_over() -> None:
    nan, fine = torch.full((1, 1, 3), math.nan), torch.zeros(1, 1, 3).log_softmax(-1)
    assert_refused_at_end(nan, None)
    with refused_at_end():
        sample_categorical(fine, None)
    with pytest.raises(OperationError):
        sample_categorical(nan, None)


class Broken(Denoiser):
    """A network whose logits are nan for the last sample."""

    device = torch.device("cpu")  # type: ignore[assignment]

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        table = torch.zeros(*x_t.shape, V).log_softmax(-1)
        table[-1] = math.nan
        everywhere = torch.ones_like(x_t, dtype=torch.bool)
        return TablePrediction(table, x_t, everywhere if cond.everywhere else self.process.to_predict(x_t))


@pytest.mark.parametrize("greedy_tail", [0, 9])
@pytest.mark.parametrize("process", ["masked", "uniform"])
@pytest.mark.parametrize("name", SAMPLERS.names())
def test_every_sampler_refuses_a_network_of_nan(name: str, process: str, greedy_tail: int) -> None:
    traits = SAMPLERS.get(name).cls.traits
    if traits.masks_only and process == "uniform":
        pytest.skip("needs masks")
    sampler = SAMPLERS.build({"type": name, "greedy_tail": greedy_tail})
    denoiser = Broken(PROCESSES.build(process, vocab_size=V), 4, 2 if traits.gives_context else None)
    with pytest.raises(OperationError, match="not finite"):
        sampler.sample(denoiser, 3, steps=traits.only_steps or 3, generator=SampleStreams(0, range(3)))


@pytest.mark.parametrize("number", [0.0, 2.0**-53, 1 - 2.0**-53])
@pytest.mark.parametrize("precision", ["joint_fp64", "joint_safe", "joint_fp32"])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_one_draw_from_all_outcomes_stays_within_them(
    process: str, precision: str, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one symbol of three is possible, in the last step; every random number is at its edge."""
    monkeypatch.setattr(
        joint,
        "uniform",
        lambda shape, source, device, dtype: torch.full(
            tuple(shape), min(number, 1 - torch.finfo(dtype).eps / 2), dtype=dtype
        ),
    )
    law: DiscreteProcess = PROCESSES.build(process, vocab_size=3)
    x = torch.full((1, 2), law.num_states - 1)
    table = torch.tensor([-math.inf, 0.0, -math.inf]).expand(1, 2, 3)
    prediction = TablePrediction(table, x, law.to_predict(x))
    now, then = torch.tensor([0.3], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    ids = joint.draw_joint(law, prediction, x, now, then, None, precision, last=True)  # type: ignore[arg-type]
    assert (ids == 1).all()


@pytest.mark.parametrize("t", [1e-9, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_the_uniform_posterior_stays_within_its_support(
    t: float, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At s = 0 only x is possible, at s = t only z_t, if it holds any signal."""
    process = PROCESSES.build("uniform", vocab_size=5)
    process.schedule = SimpleNamespace(alpha=lambda t: 1 - t)  # exactly 1 at t = 0
    edge = torch.full((1, 3), number, dtype=torch.float64)
    monkeypatch.setattr(uniform_module, "uniform", lambda *_, **__: edge)
    monkeypatch.setattr(process, "prior", lambda shape, **_: torch.full(shape, 4))
    x0, z = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 3]])
    now = torch.tensor([t], dtype=torch.float64)
    assert torch.equal(process.posterior_sample(x0, z, now, torch.zeros_like(now), generator=None), x0)
    if t < 1:
        assert torch.equal(process.posterior_sample(x0, z, now, now, generator=None), z)


def test_an_exponential_number_of_0_draws_no_symbol_of_probability_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "exponential_", lambda self, generator: self.zero_())
    log_p = torch.tensor([[0.0, 0.5, 0.5]]).log()
    assert int(draws.sample_categorical(log_p, None)) > 0


def test_a_network_of_nan_draws_nothing_in_training() -> None:
    table = Table(PROCESSES.build("masked", vocab_size=V), seed=0)
    table.logits.data.fill_(math.nan)
    with pytest.raises(OperationError):
        table(torch.full((2, 2), V), torch.ones(2)).sample()

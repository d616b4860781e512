"""Predictions with a clock of their own: which positions turn clean first, and who follows it.

Statistical tests fail by chance about once in a billion runs (six standard deviations), and their seeds are fixed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.denoisers.exact import exact_denoiser
from fewstep.denoisers.guidance import GuidedPrediction
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import temperature
from fewstep.processes.base import PROCESSES
from fewstep.samplers.base import SAMPLERS
from fewstep.testing.statistics import SIGMAS, assert_same_distribution

EXPONENTS = torch.tensor([0.4, 1.0, 1.0, 2.5], dtype=torch.float64)
COUNT = 20_000


class Ordered(DenoiserAround):
    """A denoiser with the clock t^e of fixed exponents, one for each position; asked at the times of the positions."""

    def __init__(self, denoiser: Denoiser, exponents: Tensor = EXPONENTS) -> None:
        super().__init__(denoiser)
        self.exponents = exponents
        self.has_clock = True

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        prediction = self.denoiser.predict(x_t, t.double()[:, None] ** self.exponents, s, cond, generator)
        prediction.clock = lambda time: time[:, None] ** self.exponents
        return prediction


def process(name: str = "masked", vocab_size: int = 3) -> Any:
    return PROCESSES.build({"type": name, "schedule": {"type": "linear", "eps": 0.0}}, vocab_size=vocab_size)


def assert_share(hits: Tensor, expected: Tensor) -> None:
    """Shares of true values [L] of BoolTensor [N, L] are what was expected."""
    error = (expected * (1 - expected) / len(hits)).sqrt()
    assert bool(((hits.double().mean(0) - expected).abs() < SIGMAS * error).all()), (hits.double().mean(0), expected)


def test_a_step_reveals_a_position_by_its_own_clock() -> None:
    """With `linear`, 1 - (s / t)^e of the masks (LoMDM, arXiv 2602.02112)."""
    masked, rng = process(), Generator().manual_seed(0)
    x = masked.prior((COUNT, 4), device="cpu", generator=None)
    prediction = TablePrediction(torch.zeros(COUNT, 4, 3).log_softmax(-1), x, masked.to_predict(x))
    prediction.clock = lambda time: time[:, None] ** EXPONENTS
    t, s = (torch.full((COUNT,), value, dtype=torch.float64) for value in (0.8, 0.5))
    z = masked.step_back(x, prediction, t, s, generator=rng)
    assert_share(z != masked.mask_id, 1 - (0.5 / 0.8) ** EXPONENTS)


def test_the_walk_has_so_many_masks_left_at_each_position() -> None:
    source = Markov(Markov.Config(vocab_size=2, length=4, successors=1, smoothing=0.4, size=8))
    shown = {}
    SAMPLERS.build("ancestral").sample(
        Ordered(exact_denoiser(source, process(vocab_size=2))),
        COUNT,
        steps=4,
        generator=Generator().manual_seed(1),
        on_step=lambda state: shown.update({state.s: state.x}),
    )
    for s in (0.75, 0.5, 0.25):
        assert_share(shown[s] == 2, s**EXPONENTS)


@pytest.mark.parametrize(
    ("name", "precision"), [("masked", "two_stage"), ("masked", "joint_fp64"), ("uniform", "two_stage")]
)
def test_any_order_draws_from_the_exact_distribution(name: str, precision: str) -> None:
    source = Markov(Markov.Config(vocab_size=2, length=3, successors=1, smoothing=0.4, size=8))
    oracle = Ordered(exact_denoiser(source, process(name, 2)), EXPONENTS[:3])
    sampler = SAMPLERS.build({"type": "ancestral", "precision": precision})
    x = sampler.sample(oracle, 4000, steps=128, generator=Generator().manual_seed(2)).x
    index = x[:, 0] * 4 + x[:, 1] * 2 + x[:, 2]
    assert_same_distribution(
        torch.bincount(index, minlength=8), source.ngram_probs(3).flatten(), f"{name}, {precision}"
    )


def test_shaping_and_guidance_keep_the_clock() -> None:
    masked = process()
    x = masked.prior((2, 4), device="cpu", generator=None)
    plain = TablePrediction(torch.zeros(2, 4, 3).log_softmax(-1), x, masked.to_predict(x))
    ordered = TablePrediction(torch.zeros(2, 4, 3).log_softmax(-1), x, masked.to_predict(x))
    ordered.clock = lambda time: time[:, None] ** EXPONENTS
    t, s = torch.tensor([0.8, 0.4]), torch.tensor([0.2, 0.1])
    for prediction in (ordered, ordered.shaped(temperature(0.5)), GuidedPrediction(ordered, plain, 2.0)):
        assert torch.equal(prediction.shaped(temperature(0.9)).on_clock(t, s)[1], s[:, None] ** EXPONENTS)
    assert plain.shaped(temperature(0.5)).on_clock(t, s) == (t, s)


@pytest.mark.parametrize("name", [entry.name for entry in SAMPLERS.entries() if not entry.cls.traits.follows_clock])
def test_samplers_that_choose_places_themselves_refuse_it(name: str) -> None:
    source = Markov(Markov.Config(vocab_size=3, length=4, size=8))
    with pytest.raises(ValueError, match="has a clock of its own"):
        SAMPLERS.build(name).sample(
            Ordered(exact_denoiser(source, process())), 2, steps=2, generator=Generator().manual_seed(0)
        )

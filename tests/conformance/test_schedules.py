"""Every registered noise schedule, those of installed plugins and those that come later included."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from fewstep.schedules.base import SCHEDULES, NoiseSchedule
from fewstep.testing.schedules import check_schedule

VARIANTS: list[dict[str, Any]] = [
    {"type": "linear", "eps": 0.0},
    {"type": "linear", "eps": 0.05},
    {"type": "log_linear", "eps": 0.0},
    {"type": "cosine", "eps": 0.0},
    {"type": "cosine", "eps": 0.02},
    {"type": "cosine_sigma", "eps": 0.0},
    {"type": "cosine_squared", "eps": 0.0},
    {"type": "cosine_squared", "eps": 0.05},
    {"type": "polynomial", "exponent": 0.5},
    {"type": "polynomial", "exponent": 1.0, "eps": 0.0},
    {"type": "polynomial", "exponent": 10.0, "eps": 0.0},
    {"type": "geometric", "sigma_min": 1e-3, "sigma_max": 3.0},
    {"type": "geometric", "sigma_min": 0.1, "sigma_max": 80.0},
]
CONFIGS: list[Any] = [*SCHEDULES.names(), *VARIANTS]


def label(config: Any) -> str:
    return config if isinstance(config, str) else "-".join(str(value) for value in config.values())


@pytest.mark.parametrize("config", CONFIGS, ids=label)
def test_conforms(config: Any) -> None:
    check_schedule(config)


PAPER: dict[str, tuple[Any, Any]] = {
    "linear": (lambda t, e=1e-4: (1 - 2 * e) * (1 - t) + e, None),
    "log_linear": (lambda t, e=1e-3: 1 - (1 - e) * t, lambda t: 1 / t),
    "cosine": (lambda t, e=1e-4: (1 - 2 * e) * (1 - math.cos(math.pi / 2 * (1 - t))) + e, None),
    "cosine_sigma": (
        lambda t, e=1e-3: e + (1 - e) * math.cos(math.pi * t / 2),
        lambda t: math.pi / 2 / math.tan(math.pi * t / 4),
    ),
    "cosine_squared": (
        lambda t, e=1e-3: e + (1 - e) * math.cos(math.pi * t / 2) ** 2,
        lambda t: math.pi / math.tan(math.pi * t / 2),
    ),
    "polynomial": (lambda t, e=1e-4: (1 - 2 * e) * (1 - t**2) + e, None),
    "geometric": (
        lambda t: math.exp(-((1e-4) ** (1 - t)) * 20**t),
        lambda t: math.log(20 / 1e-4) * 1e-4 ** (1 - t) * 20**t / math.expm1(1e-4 ** (1 - t) * 20**t),
    ),
    "log": (lambda t: 1 - math.log2(1 + t), lambda t: 1 / ((1 + t) * math.log(1 + t))),
}
"""Formulas as published, and the weights that come out in closed form."""


@pytest.mark.parametrize("name", sorted(PAPER))
@settings(deadline=None)
@given(t=st.floats(1e-3, 1 - 1e-3))
def test_is_the_published_formula(name: str, t: float) -> None:
    schedule, (alpha, weight) = SCHEDULES.build(name), PAPER[name]
    at = torch.tensor(t, dtype=torch.float64)
    assert float(schedule.alpha(at)) == pytest.approx(alpha(t), rel=1e-9, abs=1e-13)
    if weight is not None:
        assert float(schedule.elbo_weight(at)) == pytest.approx(weight(t), rel=1e-9)


@pytest.mark.parametrize("name", sorted(PAPER))
@settings(deadline=None)
@given(a=st.floats(0, 1), b=st.floats(0, 1))
def test_alpha_and_its_inverse_never_increase(name: str, a: float, b: float) -> None:
    schedule = SCHEDULES.build(name)
    low, high = torch.tensor([min(a, b), max(a, b)], dtype=torch.float64)
    slack = 1e-15
    assert schedule.alpha(low) >= schedule.alpha(high) - slack
    assert schedule.time_of(low) >= schedule.time_of(high) - 10 * slack


@pytest.mark.parametrize("name", sorted(PAPER))
def test_small_noise_keeps_its_digits_in_float32(name: str) -> None:
    """1 - alpha computed by subtraction is off by 5 % at t = 1e-3 for the cosines; the weight would be as well."""
    schedule, t = SCHEDULES.build(name), torch.logspace(-4, -1, 30)
    torch.testing.assert_close(schedule.noise(t).double(), schedule.noise(t.double()), rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule.elbo_weight(t).double(), schedule.elbo_weight(t.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("config", [c for c in VARIANTS if c.get("eps") == 0.0], ids=label)
def test_small_signal_keeps_its_digits_in_float32(config: Any) -> None:
    schedule, t = SCHEDULES.build(config), 1 - torch.logspace(-4, -1, 30)
    torch.testing.assert_close(schedule.alpha(t).double(), schedule.alpha(t.double()), rtol=2e-5, atol=0)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"type": "linear", "eps": -0.1}, "eps"),
        ({"type": "log_linear", "eps": 1.0}, "eps"),
        ({"type": "polynomial", "exponent": 0}, "exponent"),
        ({"type": "geometric", "sigma_max": 1.0}, "sigma_max"),
        ({"type": "geometric", "sigma_min": 0.0}, "sigma_min"),
    ],
    ids=lambda value: label(value),
)
def test_refuses_settings_that_never_reach_noise(config: Any, key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SCHEDULES.build(config)
    assert [error["loc"] for error in caught.value.errors()] == [(key,)]


class Broken(NoiseSchedule):
    """A correct linear schedule, in which the tests below break one thing at a time."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def time_of(self, alpha: Tensor) -> Tensor:
        return (1 - alpha).clamp(0, 1)


BREAKS: dict[str, tuple[str, Any, str]] = {
    "slope": ("alpha_prime", lambda self, t: torch.full_like(t, -0.999), "alpha_prime is not d alpha/dt"),
    "ends": ("ends", (0.999, 0.0), "alpha differs from `ends`"),
    "inverse": ("time_of", lambda self, a: ((1 - a) * (1 + 1e-4)).clamp(0, 1), r"time_of\(alpha\(t\)\) is off"),
    "weight": ("elbo_weight", lambda self, t: 1.01 / t, "elbo_weight is not"),
    "noise": ("noise", lambda self, t: t + 1e-9, "is not"),
    "shape": (
        "alpha_prime",
        lambda self, t: -torch.ones(t.numel(), dtype=t.dtype).squeeze(),
        "alpha_prime turns shape",
    ),
    "dtype": (
        "alpha_prime",
        lambda self, t: -torch.ones_like(t, dtype=torch.float64),
        "alpha_prime turns torch.float32",
    ),
}


@pytest.mark.parametrize("what", [None, *BREAKS])
def test_the_check_finds_what_is_broken(what: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCHEDULES, "build", lambda config: config)
    schedule = Broken.__new__(Broken)
    if what is None:
        check_schedule(schedule)
        return
    name, replacement, message = BREAKS[what]
    monkeypatch.setattr(Broken, name, replacement)
    with pytest.raises(AssertionError, match=message):
        check_schedule(schedule)

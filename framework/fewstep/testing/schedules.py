"""Conformance of noise schedules."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.core.registry import Raw
from fewstep.schedules.base import SCHEDULES, NoiseSchedule

LEAST_SIGNAL_AT_START = 0.9
MOST_SIGNAL_AT_END = 0.06


def check_schedule(config: Raw) -> None:
    """Check a schedule's ends, order, slope, inverse and weight, in float32 and float64.

    Raises:
        AssertionError: a check fails.
    """
    schedule = SCHEDULES.build(config)
    _check_slope(schedule)
    _check_weight(schedule)
    for dtype in (torch.float32, torch.float64):
        _check_ends(schedule, dtype)
        _check_order(schedule, dtype)
        _check_inverse(schedule, dtype)
        _check_elementwise(schedule, dtype)
    _check_float32_agrees(schedule)


def _inner_times(dtype: torch.dtype) -> Tensor:
    """Times away from the ends, where slopes and weights may be infinite."""
    return torch.linspace(0.01, 0.99, 197, dtype=dtype)


def _check_ends(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    declared = torch.tensor(schedule.ends, dtype=dtype)
    assert declared[0] > LEAST_SIGNAL_AT_START, f"t = 0 keeps only {declared[0]:.3g} of the signal"
    assert declared[1] < MOST_SIGNAL_AT_END, f"t = 1 keeps {declared[1]:.3g} of the signal"
    actual = schedule.alpha(torch.tensor([0.0, 1.0], dtype=dtype))
    slack = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual, declared, rtol=0, atol=slack, msg=lambda m: f"alpha differs from `ends`: {m}")
    beyond = schedule.time_of(torch.tensor([1.0, 0.0], dtype=dtype))
    torch.testing.assert_close(
        beyond, torch.tensor([0.0, 1.0], dtype=dtype), rtol=0, atol=slack, msg=lambda m: f"time_of beyond `ends`: {m}"
    )


def _check_order(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    alpha = schedule.alpha(torch.linspace(0, 1, 1001, dtype=dtype))
    assert ((alpha >= 0) & (alpha <= 1)).all(), "alpha leaves [0, 1]"
    assert (alpha.diff() <= 0).all(), "alpha increases somewhere"
    # Rounding may flatten a slope; twenty points in float64 are far enough apart for it to show.
    coarse = schedule.alpha(torch.linspace(0.05, 1, 20, dtype=torch.float64))
    assert (coarse.diff() < 0).all(), "alpha stands still somewhere"


def _check_slope(schedule: NoiseSchedule) -> None:
    t = _inner_times(torch.float64).requires_grad_()
    slope = schedule.alpha_prime(t.detach())
    assert (slope <= 0).all(), "alpha_prime is positive somewhere"
    (exact,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(slope, exact, rtol=1e-9, atol=1e-12, msg=lambda m: f"alpha_prime is not d alpha/dt: {m}")
    step, t = 1e-5, t.detach()
    differences = (schedule.alpha(t + step) - schedule.alpha(t - step)) / (2 * step)
    scale = float(slope.abs().max())
    torch.testing.assert_close(
        slope, differences, rtol=1e-5, atol=1e-6 * scale, msg=lambda m: f"alpha_prime is not the slope of alpha: {m}"
    )


def _check_inverse(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    t = _inner_times(dtype)
    alpha, slope = schedule.alpha(t), schedule.alpha_prime(t).abs()
    # Levels are rounded; where alpha is flat, many times have the same level.
    off = (schedule.time_of(alpha) - t).abs()
    assert (off <= 32 * eps * (1 + 1 / slope)).all(), f"time_of(alpha(t)) is off by up to {float(off.max()):.2g}"
    levels = torch.linspace(schedule.ends[1], schedule.ends[0], 201, dtype=dtype)
    times = schedule.time_of(levels)
    assert ((times >= 0) & (times <= 1)).all(), "time_of leaves [0, 1]"
    assert (times.diff() <= 0).all(), "time_of increases with alpha somewhere"
    slope = schedule.alpha_prime(times[1:-1]).abs()
    off = (schedule.alpha(times) - levels).abs()[1:-1]
    assert (off <= 32 * eps * (1 + slope)).all(), f"alpha(time_of(a)) is off by up to {float(off.max()):.2g}"


def _check_weight(schedule: NoiseSchedule) -> None:
    t = _inner_times(torch.float64)
    weight, alpha = schedule.elbo_weight(t), schedule.alpha(t)
    assert (weight > 0).all(), "elbo_weight is not positive"
    assert weight.isfinite().all(), "elbo_weight is not finite"
    # Multiplied by 1 - alpha, which may round to 0 near t = 0.
    excess = (weight * (1 - alpha) + schedule.alpha_prime(t)).abs()
    assert (excess <= 1e-12 * (1 + weight)).all(), "elbo_weight is not -alpha' / (1 - alpha)"
    assert (schedule.noise(t) + alpha - 1).abs().max() < 1e-14, "noise is not 1 - alpha"


def _check_elementwise(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    t = torch.linspace(0.1, 0.9, 12, dtype=dtype)
    for name in ("alpha", "alpha_prime", "time_of", "noise", "elbo_weight"):
        function = getattr(schedule, name)
        alone = torch.stack([function(x) for x in t])
        for shape in ((12,), (3, 4), (2, 1, 6)):
            values = function(t.view(shape))
            assert values.shape == shape, f"{name} turns shape {shape} into {tuple(values.shape)}"
            assert values.dtype == dtype, f"{name} turns {dtype} into {values.dtype}"
            # Scalars and vectors may take different code paths, which may differ in the last digits.
            torch.testing.assert_close(values.flatten(), alone, rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=0)


def _check_float32_agrees(schedule: NoiseSchedule) -> None:
    t = _inner_times(torch.float32)
    for name in ("alpha", "alpha_prime", "noise"):
        function = getattr(schedule, name)
        exact = function(t.double())
        off = (function(t).double() - exact).abs()
        assert (off <= 2e-7 + 2e-5 * exact.abs()).all(), f"{name} in float32 is off by up to {float(off.max()):.2g}"

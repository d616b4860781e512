"""Laws of the two times of a moment-matching step."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from fewstep.objectives.matching.times import Draw, StepTimes, TimeLaw, draw_times, typical_steps

N = 50_000
LAWS: list[TimeLaw] = ["uniform", "grid", "start", "independent", "same"]


def source(seed: int = 0) -> Draw:
    rng = Generator().manual_seed(seed)
    return lambda count: torch.rand(count, generator=rng)


def draw(law: TimeLaw, k: int | tuple[int, int] = 4, min_time: float = 0.0) -> StepTimes:
    return draw_times(law, N, k, min_time, source())


@pytest.mark.parametrize("k", [1, 4, (2, 16)])
@pytest.mark.parametrize("law", LAWS)
def test_times_are_times(law: TimeLaw, k: int | tuple[int, int]) -> None:
    t, s, end = draw(law, k, 1e-3)
    assert (end >= 0).all()
    assert (end <= t).all()
    assert t.shape == s.shape == (N,)
    assert s.min() >= 1e-3
    assert t.max() <= 1
    assert law == "independent" or bool((s <= t).all())


def test_uniform_is_algorithm_1() -> None:
    t, s, _ = draw("uniform")
    assert s.mean() == pytest.approx(0.5, abs=0.01)
    assert (s.histc(10, 0, 1) / N).sub(0.1).abs().max() < 0.01
    inner = s < 0.75  # where t is not cut off at 1
    step = (t - s)[inner] * 4
    assert step.max() <= 1.001
    assert (step.histc(10, 0, 1) / inner.sum()).sub(0.1).abs().max() < 0.01


@pytest.mark.parametrize("law", ["uniform", "grid"])
def test_a_step_goes_on_to_its_end_wherever_it_is_judged(law: TimeLaw) -> None:
    """What a sampler tells of each of its four steps, the last one, to 0, included."""
    t, s, end = draw(law)
    assert torch.allclose(end, (t - 0.25).clamp_min(0))
    assert (end <= s + 1e-6).all()
    assert (end == 0).float().mean() > 0.05


def test_grid_starts_steps_where_the_sampler_does() -> None:
    t, s, _ = draw("grid")
    assert t.unique().tolist() == [0.25, 0.5, 0.75, 1.0]
    assert (t == 1).double().mean() == pytest.approx(0.25, abs=0.01)
    assert (((t - s) * 4).histc(10, 0, 1) / N).sub(0.1).abs().max() < 0.01


def test_start_is_for_one_step() -> None:
    t, s, end = draw("start")
    assert (end == 0).all()
    assert (t == 1).all()
    assert s.mean() == pytest.approx(0.5, abs=0.01)


def test_independent_times_do_not_know_of_each_other() -> None:
    t, s, _ = draw("independent")
    assert abs(torch.corrcoef(torch.stack([t, s]))[0, 1]) < 0.02
    assert t.mean() == pytest.approx(0.5, abs=0.01)


def test_the_same_time_twice() -> None:
    """Samples are noised to the level that the student was given, which is spread evenly."""
    t, s, end = draw("same")
    assert torch.equal(t, s)
    assert torch.equal(end, (t - 0.25).clamp_min(0))
    assert (t.histc(10, 0, 1) / N).sub(0.1).abs().max() < 0.01


def test_a_range_of_steps_reaches_both_ends_evenly_in_the_logarithm() -> None:
    t, _, _ = draw_times("grid", N, (2, 16), 0.0, source())
    firsts = {k: ((t - 1 / k).abs() < 1e-6).sum() for k in (2, 16, 17)}
    assert firsts[2] > 0
    assert firsts[16] > 0
    assert firsts[17] == 0
    _, s, _ = draw_times("uniform", N, (2, 16), 0.0, source())
    t2, _, _ = draw_times("uniform", N, (2, 16), 0.0, source())
    inner = s < 0.5
    lengths = (t2 - s)[inner]
    # E[U / (2 k)] over k log-uniform on 2 ... 16
    ks = torch.arange(2, 17).double()
    chance = ((ks + 1) / ks).log() / torch.tensor(17 / 2).log()
    assert lengths.mean() == pytest.approx(float((chance / ks).sum() / 2), rel=0.03)


def test_typical_steps() -> None:
    assert typical_steps("uniform", 8) == 8
    assert typical_steps("grid", (4, 16)) == 8
    assert typical_steps("start", 8) == 1


@pytest.mark.parametrize("law", ["uniform", "grid"])
def test_a_share_of_s_lies_below_the_end(law: TimeLaw) -> None:
    """And is uniform there; where the end is 0 there is no place below it. The other draws are the law's."""
    t, s, end = draw_times(law, N, 4, 1e-3, source(), 0.4)
    before = draw(law, 4, 1e-3)
    assert torch.equal(t, before.t)
    inner = end > 0.1
    below = (s < end)[inner]
    assert below.double().mean() == pytest.approx(0.4, abs=0.02)
    places = ((s - 1e-3) / (end - 1e-3))[inner][below]
    assert (places.histc(5, 0, 1) / len(places)).sub(0.2).abs().max() < 0.02
    same = s >= end
    assert torch.equal(s[same], before.s[same])
    assert torch.equal(s[end == 0], before.s[end == 0])

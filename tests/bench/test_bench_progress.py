"""The time left for a suite, with a clock that the test moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.bench.running.plan import PreparedCase
from fewstep.bench.running.progress import Stage, SuiteClock
from fewstep.bench.suites.suite import CaseSpec
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_stage_at_its_own_rate_or_that_of_its_kind() -> None:
    time = Time()
    clock = SuiteClock([Stage("train", 100), Stage("sample", 50), Stage("train", 40), Stage("sample", 30)], now=time)
    assert clock.remaining() is None
    assert clock.text() == "suite: time left not known yet"

    time.now += 10
    clock.advance(0, 50)  # 5 a second, for all stages as long as nothing else is known
    assert clock.remaining() == pytest.approx((50 + 50 + 40 + 30) / 5)
    time.now += 10
    clock.advance(0, 50)

    clock.start(1)
    time.now += 10
    clock.advance(1, 10)  # sampling: 1 a second
    assert clock.remaining() == pytest.approx(40 / 1 + 40 / 5 + 30 / 1)
    assert clock.text() == "suite: about 01:18 left"

    clock.start(2)
    time.now += 10
    clock.advance(2, 20)  # this training: 2 a second
    assert clock.remaining() == pytest.approx(40 / 1 + 20 / 2 + 30 / 1)


def test_time_between_stages_is_not_counted() -> None:
    time = Time()
    clock = SuiteClock([Stage("train", 10), Stage("train", 20)], now=time)
    time.now += 10
    clock.advance(0, 10)
    time.now += 1000
    clock.start(1)
    assert clock.remaining() == pytest.approx(20)


def test_what_was_done_before_says_nothing_about_the_rate() -> None:
    time = Time()
    clock = SuiteClock([Stage("train", 100, completed=90), Stage("sample", 20, completed=20)], now=time)
    assert clock.remaining() is None
    time.now += 5
    clock.advance(0, 5)
    assert clock.remaining() == pytest.approx(5)


def test_a_dropped_stage_takes_no_time() -> None:
    time = Time()
    clock = SuiteClock([Stage("train", 10), Stage("sample", 10)], now=time)
    time.now += 5
    clock.advance(0, 5)
    clock.drop(1)
    assert clock.remaining() == pytest.approx(5)


STABLE = "noise_input={type: stable}"


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ([], 100),  # one role a step, in turns
        (["objective.updates=simultaneous"], 200),
        (["objective.updates=simultaneous", "objective.warmup={share: 0.2}", STABLE], 20 + 2 * 80),
        (["objective.updates=simultaneous", "objective.auxiliary_first=0.1"], 10 + 2 * 90),
    ],
    ids=["in turns", "together", "with a warm-up", "auxiliary first"],
)
def test_the_cost_of_a_training_weighs_phases_by_their_length(changes: list[str], updates: int) -> None:
    loaded = load_recipe("smoke-dmmd", ["teacher.run=t", "train.steps=100", "train.batch_size=8", *changes])
    case = PreparedCase(
        CaseSpec(name="student", recipe="smoke-dmmd", steps=[1]), None, loaded, "d", RunDir(Path("run"))
    )
    assert case.train_passes == 8 * (3 * 100 + 2 * updates)

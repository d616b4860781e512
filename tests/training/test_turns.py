"""Whose turn it is."""

from __future__ import annotations

import pytest

from fewstep.objectives.base import Phase
from fewstep.training.turns import Turns

STUDENT, CRITIC = Phase("student", ("student",)), Phase("critic", ("critic",), repeat=2)


def names(turns: Turns, steps: int) -> str:
    return "".join(turns.at(step).name[0] for step in range(steps))


def test_phases_take_turns_in_a_fixed_cycle() -> None:
    turns = Turns([STUDENT, CRITIC], 8)
    assert names(turns, 8) == "sccsccsc"
    assert (turns.updates("student"), turns.updates("critic"), turns.updates("nobody")) == (3, 5, 0)


def test_a_phase_may_begin_later_whatever_the_length() -> None:
    late = Phase("student", ("student",), after=0.5)
    assert names(Turns([late, CRITIC], 8), 8) == "ccccccsc"[:4] + names(Turns([STUDENT, CRITIC], 8), 8)[4:]
    assert Turns([late, CRITIC], 8).updates("student") == 1
    assert names(Turns([late, Phase("critic", ("critic",))], 20), 20) == "c" * 10 + "sc" * 5
    assert names(Turns([late, CRITIC], 1), 1) == "s", "of one step half is none"


def test_what_trains_both_counts_for_both() -> None:
    turns = Turns([Phase("all", ("student", "critic"))], 5)
    assert (turns.updates("student"), turns.updates("critic")) == (5, 5)


@pytest.mark.parametrize("steps", [1, 2, 7, 101])
@pytest.mark.parametrize(("after", "repeat"), [(0.0, 1), (0.1, 1), (0.5, 3), (0.9, 2)])
def test_updates_are_those_of_going_through_all_steps(steps: int, after: float, repeat: int) -> None:
    turns = Turns([Phase("student", ("student",), repeat, after), CRITIC], steps)
    for role in ("student", "critic"):
        assert turns.updates(role) == sum(role in turns.at(step).train for step in range(steps))


@pytest.mark.parametrize("steps", [1, 2, 7, 101])
def test_a_phase_may_end_before_the_training(steps: int) -> None:
    early, late = Phase("early", ("student",), until=0.3), Phase("late", ("student", "critic"), after=0.3)
    alone = Phase("critic", ("critic",), after=0.3, until=0.5)
    turns = Turns([early, alone, late], steps)
    assert names(turns, steps)[: int(0.3 * steps)] == "e" * int(0.3 * steps)
    assert set(names(turns, steps)[int(0.5 * steps) :]) == {"l"}
    for role in ("student", "critic"):
        assert turns.updates(role) == sum(role in turns.at(step).train for step in range(steps))


def test_rates_rise_where_a_phase_says_so() -> None:
    """From its first step on, over a share of the training; other roles and phases keep theirs."""
    early = Phase("early", ("student",), until=0.5)
    late = Phase("late", ("student", "critic"), after=0.5, ramp=0.4, ramped=("student",))
    turns = Turns([early, late], 10)
    assert [round(turns.ramp("student", step), 6) for step in range(10)] == [1, 1, 1, 1, 1, 0.25, 0.5, 0.75, 1, 1]
    assert all(turns.ramp("critic", step) == 1 for step in range(10))


def test_steps_without_a_phase_are_refused() -> None:
    with pytest.raises(ValueError, match="no phase trains anything at step 5 of 10"):
        Turns([Phase("early", ("student",), until=0.5), Phase("late", ("student",), after=0.7)], 10)

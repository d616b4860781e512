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

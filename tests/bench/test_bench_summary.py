"""Means, standard errors, comparisons and sentences, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from tiny_suite import made_up_row, made_up_summary

from fewstep.bench.results.results import ClaimResult, Estimate
from fewstep.bench.results.summary import compare, estimate, estimate_text, judge, summarise
from fewstep.bench.suites.suite import ClaimSpec


def test_standard_error_by_hand() -> None:
    found = estimate([1.0, 2.0, 6.0])
    # mean 3; squared deviations 4, 1, 9; variance 14 / 2 = 7; error sqrt(7 / 3)
    assert found.mean == pytest.approx(3.0)
    assert found.stderr == pytest.approx(math.sqrt(7 / 3))
    assert found.n == 3


def test_one_seed_has_no_spread() -> None:
    assert estimate([4.0]) == Estimate(mean=4.0, stderr=None, n=1)


def test_rows_are_joined_over_seeds_only() -> None:
    rows = [
        made_up_row(case, steps, seed, 10.0 * (steps or 0) + seed)
        for case, steps in (("b", 4), ("a", 4), ("a", 2))
        for seed in (0, 2)
    ]
    found = summarise(rows)
    assert [(s.case, s.steps, s.nfe) for s in found] == [("b", 4, 4), ("a", 4, 4), ("a", 2, 2)]
    assert [s.values["score"].mean for s in found] == [41.0, 41.0, 21.0]
    assert found[0].values["score"].stderr == pytest.approx(1.0)


def test_each_training_counts_once_with_its_mean_over_sampling_seeds() -> None:
    rows = [
        made_up_row("a", 4, seed, mean + sign, train_seed)
        for train_seed, mean in ((7, 10.0), (8, 12.0), (9, 17.0))
        for seed, sign in enumerate((-1.0, 1.0))
    ]
    (found,) = summarise(rows)
    # means 10, 12, 17: mean 13; squared deviations 9, 1, 16; variance 13; error sqrt(13 / 3)
    assert (found.values["score"].mean, found.values["score"].n) == (13.0, 3)
    assert found.values["score"].stderr == pytest.approx(math.sqrt(13 / 3))
    assert found.trainings == {7: {"score": 10.0}, 8: {"score": 12.0}, 9: {"score": 17.0}}
    (one,) = summarise(rows[:2])
    assert (one.values["score"].mean, one.values["score"].stderr) == pytest.approx((10.0, 1.0))
    assert one.trainings == {}


def test_trainings_with_the_same_seeds_are_compared_pair_by_pair() -> None:
    """A student that is better by 1 than each of three unlike teachers is better, though the means overlap."""
    rows = [made_up_row("b", 4, 0, value, seed) for seed, value in enumerate((10.0, 20.0, 30.0))]
    rows += [made_up_row("a", 4, 0, value, seed) for seed, value in enumerate((9.0, 18.9, 28.9))]
    claim = ClaimSpec(case="a", steps=4, against="b", at=None, expect="better")
    found = judge(claim, "score", "lower", summarise(rows))
    # differences -1, -1.1, -1.1: squared deviations 0.02 / 3, variance 0.01 / 3, error sqrt(0.01 / 9)
    assert found.difference == pytest.approx(-3.2 / 3)
    assert found.stderr == pytest.approx(0.1 / 3)
    assert found.holds is True
    unlike = [row for row in rows if row.case == "b" or row.train_seed]
    assert judge(claim, "score", "lower", summarise(unlike)).verdict == "level"


@pytest.mark.parametrize(
    ("difference", "direction", "verdict"),
    [
        (-2.1, "lower", "better"),
        (-2.0, "lower", "level"),
        (0.0, "lower", "level"),
        (2.0, "lower", "level"),
        (2.1, "lower", "worse"),
        (-2.1, "higher", "worse"),
        (2.0, "higher", "level"),
        (2.1, "higher", "better"),
    ],
)
def test_a_difference_counts_beyond_two_standard_errors(difference: float, direction: str, verdict: str) -> None:
    assert compare(difference, 1.0, direction) == verdict


def judged(
    ours: tuple[float, float | None], theirs: tuple[float, float | None], expect: str, direction: str
) -> ClaimResult:
    claim = ClaimSpec.model_validate({"case": "student", "steps": 8, "against": "teacher", "at": 32, "expect": expect})
    summaries = [made_up_summary("student", 8, *ours), made_up_summary("teacher", 32, *theirs)]
    return judge(claim, "score", direction, summaries)


def test_claim_in_words_and_numbers() -> None:
    found = judged((27.1, 0.3), (30.2, 0.4), "not_worse", "lower")
    assert found.difference == pytest.approx(-3.1)
    assert found.stderr == pytest.approx(0.5)  # sqrt(0.3^2 + 0.4^2)
    assert (found.verdict, found.holds) == ("better", True)
    assert found.text == (
        "student at 8 NFE: score 27.10 ± 0.30, teacher at 32 NFE: 30.20 ± 0.40: better. Expected not worse: holds."
    )


@pytest.mark.parametrize(
    ("ours", "expect", "direction", "holds"),
    [
        (30.9, "not_worse", "lower", True),  # worse by 0.9, two errors are 1.0
        (31.1, "not_worse", "lower", False),
        (29.1, "better", "lower", False),
        (28.9, "better", "lower", True),
        (28.9, "not_worse", "higher", False),
        (31.1, "better", "higher", True),
        (29.1, "not_worse", "higher", True),
    ],
)
def test_claims_hold_or_not(ours: float, expect: str, direction: str, holds: bool) -> None:
    found = judged((ours, 0.3), (30.0, 0.4), expect, direction)
    assert found.holds is holds
    assert ("does NOT hold" in found.text) is not holds


def test_one_seed_is_said_to_leave_the_spread_unknown() -> None:
    found = judged((29.0, None), (30.0, None), "better", "lower")
    assert (found.holds, found.stderr) == (True, None)
    assert "the spread is unknown" in found.text


def test_without_steps_of_its_own_the_other_side_is_taken_at_the_same() -> None:
    claim = ClaimSpec(case="a", steps=4, against="b", at=None, expect="better")
    found = judge(claim, "score", "lower", [made_up_summary("a", 4, 1.0, 0.1), made_up_summary("b", 4, 2.0, 0.1)])
    assert (found.at, found.holds) == (4, True)


def test_a_side_that_was_not_measured() -> None:
    claim = ClaimSpec(case="a", steps=4, against="b", at=8, expect="better")
    found = judge(claim, "score", "lower", [made_up_summary("a", 4, 1.0, 0.1)])
    assert (found.holds, found.verdict, found.ours) == (None, None, None)
    assert found.text == "a at 4 NFE against b at 8 NFE: not measured in this run."


@pytest.mark.parametrize(
    ("mean", "stderr", "text"),
    [
        (27.1284, 0.5161, "27.13 ± 0.52"),
        (1234.56, 34.1, "1235 ± 34"),
        (0.0123449, 0.000123, "0.01234 ± 0.00012"),
        (0.5, None, "0.5"),
        (10.0, 0.0, "10"),
    ],
)
def test_numbers_are_shown_to_the_place_of_their_error(mean: float, stderr: float | None, text: str) -> None:
    assert estimate_text(Estimate(mean=mean, stderr=stderr, n=3)) == text

"""Whose values a report calls the best, which it sets in bold, which columns it shows, and undertrained teachers."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.bench.report.judgement import leaders, repeated, undertrained
from fewstep.bench.report.report import write_report
from fewstep.bench.report.tables import Grid, conclusion, markdown, notes, other_grid, value_grid
from fewstep.bench.results.results import Estimate, Results, Summary

Values = dict[tuple[str, int | None], dict[str, tuple[float, float]]]


@pytest.fixture
def results(finished: Path) -> Results:
    return Results.load(finished / "results.json")


def made_up(results: Results, values: Values, directions: dict[str, str], **changes: object) -> Results:
    """Results of three seeds with these means and standard errors, by case and steps."""
    summary = tuple(
        Summary(
            case=case,
            steps=steps,
            nfe=steps,
            values={name: Estimate(mean=mean, stderr=stderr, n=3) for name, (mean, stderr) in columns.items()},
        )
        for (case, steps), columns in values.items()
    )
    update = {"summary": summary, "headline": "score", "directions": directions, "claims": (), **changes}
    return results.model_copy(update=update)


COLUMNS: Values = {
    ("data", None): {"score": (1.0, 0.1), "novel": (0.5, 0.1)},
    ("teacher", 2): {"score": (9.0, 0.5), "novel": (0.4, 0.1), "novel_data": (0.5, 0.1), "alone_data": (3.0, 0.0)},
    ("teacher", 4): {"score": (5.0, 0.5), "novel": (0.4, 0.1), "novel_data": (0.5, 0.1), "alone_data": (3.0, 0.0)},
    ("student", 1): {"score": (5.8, 0.5), "novel": (0.3, 0.1), "novel_data": (0.5, 0.1), "alone_data": (3.0, 0.0)},
    ("student", 2): {"score": (7.0, 0.5), "novel": (0.3, 0.1), "novel_data": (0.5, 0.1), "alone_data": (3.0, 0.0)},
    ("oracle", 2): {"score": (1.1, 0.1), "novel": (0.5, 0.1), "novel_data": (0.5, 0.1), "alone_data": (3.0, 0.0)},
}
DIRECTIONS = {"score": "lower", "novel": "info", "novel_data": "info", "alone_data": "info"}


def test_the_best_and_what_is_not_worse_are_bold_with_their_intervals(results: Results, tmp_path: Path) -> None:
    """5.8 is .8 from 5.0, within two standard errors of the difference, 2 sqrt(.5^2 + .5^2) = 1.41; 7.0 is not."""
    results = made_up(results, COLUMNS, DIRECTIONS)
    assert [(s.case, s.steps) for s in leaders(results, "score")] == [("teacher", 4), ("student", 1)]
    text = markdown(results)
    assert "| teacher | 4 | **5.00 ± 0.50** |" in text
    assert "| student (D-MMD) | 1 | **5.80 ± 0.50** |" in text
    assert text.count("**") == 2 * 2 + 2 * sum(bool(note) for note in notes(results))
    assert r"\textbf{5.00 $\pm$ 0.50}" in value_grid(results).latex()
    for name in ("quality_vs_nfe.png",):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + (100).to_bytes(4, "big") * 2)
    page = write_report(results.model_copy(update={"rows": ()}), tmp_path).read_text()
    assert page.count(' best">') == 2
    assert '<td class="number best">5.00 ± 0.50</td>' in page


def test_higher_is_better_where_it_is(results: Results) -> None:
    results = made_up(results, COLUMNS, {**DIRECTIONS, "score": "higher"}, direction="higher")
    assert [(s.case, s.steps) for s in leaders(results, "score")] == [("teacher", 2)]
    assert leaders(results, "novel") == []


def test_columns_are_chosen_and_data_columns_not_repeated(results: Results) -> None:
    results = made_up(results, COLUMNS, DIRECTIONS)
    assert value_grid(results).header == ["model", "NFE", "score ↓"]
    assert repeated(results) == {"novel_data"}, "the row of real samples has `novel`, and no `alone`"
    assert other_grid(results).header == ["model", "NFE", "novel", "alone_data"]
    assert "novel_data" not in markdown(results)


def test_a_value_read_beside_another_stays_with_it(results: Results) -> None:
    results = made_up(results, COLUMNS, DIRECTIONS, beside={"score": "novel"}, diversity="alone_data")
    assert value_grid(results).header == ["model", "NFE", "score ↓", "novel", "alone_data"]
    assert other_grid(results).header == ["model", "NFE"]


def test_a_reference_is_never_the_best_by_its_own_value(results: Results) -> None:
    values = {**COLUMNS, ("teacher", 4): {"score": (0.1, 0.01)}}
    judged = made_up(results, values, DIRECTIONS, judges={"score": "teacher"})
    assert {s.case for s in leaders(judged, "score")} == {"student"}
    text = conclusion(judged)
    assert "he best score is 5.80 ± 0.50 (student at 1 NFE)" in text
    assert "teacher is left out, since score is its own likelihood or gradient" in text
    assert "teacher at 4" in conclusion(made_up(results, values, DIRECTIONS))


def test_an_undertrained_teacher_is_named(results: Results) -> None:
    (sentence,) = undertrained(made_up(results, COLUMNS, DIRECTIONS))
    assert sentence == (
        "The teacher 'teacher' is 5x as far from the data as real samples (score 5.00 ± 0.50, 1.00 ± 0.10); train it "
        "longer before judging the student."
    )
    assert sentence in notes(made_up(results, COLUMNS, DIRECTIONS))


@pytest.mark.parametrize(
    ("teacher", "real", "changes"),
    [
        ((2.9, 0.01), (1.0, 0.01), {}),  # less than three times as far
        ((5.0, 1.2), (1.0, 0.1), {}),  # maybe less
        ((5.0, 0.1), (1.0, 0.5), {}),  # the real samples are not known well enough
        ((5.0, 0.1), (-0.1, 0.1), {}),
        ((5.0, 0.1), (1.0, 0.1), {"direction": "higher"}),
        ((5.0, 0.1), (1.0, 0.1), {"judges": {"score": "teacher"}}),
    ],
)
def test_other_teachers_are_not(
    results: Results, teacher: tuple[float, float], real: tuple[float, float], changes: dict[str, object]
) -> None:
    values: Values = {("data", None): {"score": real}, ("teacher", 4): {"score": teacher}}
    assert list(undertrained(made_up(results, values, DIRECTIONS, **changes))) == []


def test_a_quick_run_judges_no_teacher(results: Results) -> None:
    quick = results.suite.model_copy(update={"quick": True})
    assert list(undertrained(made_up(results, COLUMNS, DIRECTIONS, suite=quick))) == []


def test_bold_cells_keep_their_bars() -> None:
    grid = Grid(["a", "b"], [["x|y", "1"]], best=frozenset({(0, 0)}))
    assert grid.markdown().splitlines()[2] == "| **x\\|y** | 1 |"

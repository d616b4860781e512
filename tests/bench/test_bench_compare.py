"""Results against earlier ones, and results of many runs in one ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import SUITE, made_up_row
from typer.testing import CliRunner

from fewstep.bench.report.compare import check_comparable, compare_results
from fewstep.bench.report.curves import Points, mean_over_nfe, means_over_nfe
from fewstep.bench.report.leaderboard import merge
from fewstep.bench.report.tables import Grid, budgets
from fewstep.bench.results.results import CaseResult, Results, SuiteInfo
from fewstep.bench.results.summary import summarise
from fewstep.bench.suites.suite import Suite
from fewstep.cli.main import app
from fewstep.core.errors import UserError

Values = dict[tuple[str, int], list[float]]


def made_up(values: Values, **suite: Any) -> Results:
    """Results with a row for each value of `score` (lower is better)."""
    rows = [made_up_row(*key, seed, value) for key, each in values.items() for seed, value in enumerate(each)]
    about = {
        "name": "tiny",
        "title": "Tiny",
        "digest": "d",
        "quick": False,
        "seeds": (0,),
        "samples": 10,
        "data": "abc",
    }
    cases = tuple(case(name) for name in dict.fromkeys(name for name, _ in values))
    return Results(
        suite=SuiteInfo(**{**about, "data": "abc", "command": "fewstep benchmark tiny", **suite}),
        complete=True,
        environment={"hardware": "two cores", "versions": {}, "threads": 1, "plugins": []},
        commit="c0ffee",
        date="today",
        headline="score",
        direction="lower",
        directions={"score": "lower"},
        cases=cases,
        rows=tuple(rows),
        summary=tuple(summarise(rows)),
        claims=(),
        failures=(),
    )


def case(name: str, evaluations: float | None = None, teacher: str | None = None) -> CaseResult:
    return CaseResult(
        name=name,
        label=name,
        recipe=f"{name}.yaml",
        set=(),
        digest=name,
        teacher=teacher,
        oracle=False,
        parameters=10,
        train_steps=5,
        train_seconds=1.0,
        run=f"runs/{name}",
        commit=None,
        logged={} if evaluations is None else {"evaluations": evaluations},
        resolved={"data": {"type": "markov"}},
    )


def save(results: Results, folder: Path) -> str:
    results.save(folder / "results.json")
    return str(folder)


# ------------------------------------------------------------------- compare

BEFORE: Values = {("student", 4): [1.0, 1.2, 1.1], ("student", 8): [0.5, 0.6, 0.7], ("teacher", 8): [0.3, 0.3, 0.3]}


def test_outcomes_by_standard_errors() -> None:
    """The standard error of each mean of three values 0.1 apart is 0.058, so that of a difference is 0.082."""
    now: Values = {("student", 4): [1.2, 1.4, 1.3], ("student", 8): [0.6, 0.7, 0.8], ("new", 2): [1.0, 1.0, 1.0]}
    found = compare_results(made_up(now), made_up(BEFORE), {})
    assert [(c.case, c.steps, c.outcome) for c in found.changes] == [
        ("student", 4, "worse"),
        ("student", 8, "level"),
        ("teacher", 8, "gone"),
        ("new", 2, "new"),
    ]
    assert found.regressions == [
        "student at 4 steps: score 1.300 ± 0.058, was 1.100 ± 0.058 (worse by 0.2, allowed: 0.163)",
        "teacher at 8 steps: score was 0.3, and is missing now",
    ]
    assert "1 worse, 1 missing now, 1 within the allowed difference, 1 new" in found.markdown("base")
    assert compare_results(made_up(BEFORE), made_up(now), {}).changes[0].outcome == "better"


@pytest.mark.parametrize(("tolerance", "outcome"), [(0.1, "worse"), (0.3, "level")])
def test_a_tolerance_says_how_much_worse_a_value_may_be(tolerance: float, outcome: str) -> None:
    now: Values = {**BEFORE, ("student", 4): [1.2, 1.4, 1.3]}
    assert compare_results(made_up(now), made_up(BEFORE), {"score": tolerance}).changes[0].outcome == outcome


def test_one_seed_without_a_tolerance_is_not_judged_unless_it_is_the_same() -> None:
    then: Values = {("student", 4): [1.0], ("teacher", 8): [0.5]}
    found = compare_results(made_up({**then, ("student", 4): [9.0]}), made_up(then), {})
    assert [change.outcome for change in found.changes] == ["unknown", "level"]
    assert not found.regressions
    assert "1 not judged (one seed and no tolerance)" in found.markdown("base")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"name": "other"}, "a full run of suite 'other'"),
        ({"quick": True}, "a quick run of suite 'tiny'"),
        ({"data": "xyz"}, "about other data"),
        ({"samples": 99}, "99 samples in each row, this run 60"),
    ],
)
def test_what_does_not_compare_is_refused(other: dict[str, Any], message: str) -> None:
    suite = Suite.model_validate({**SUITE, "samples": 60})
    check_comparable(made_up(BEFORE, samples=60), suite, "abc", quick=False)
    with pytest.raises(UserError, match=message):
        check_comparable(made_up(BEFORE, **{"samples": 60, **other}), suite, "abc", quick=False)


# --------------------------------------------------------------- leaderboard


def test_runs_are_ranked_together(tmp_path: Path) -> None:
    first = save(made_up({("student", 4): [1.0], ("data", 0): [0.0]}), tmp_path / "a")
    second = save(made_up({("other", 2): [0.5]}, name="second"), tmp_path / "b")
    board = merge([first, second])
    assert [entry.model for entry in board.entries] == ["other", "student"]
    table = board.grid().markdown()
    assert "| other | second | abc | two cores | unknown | 2 | 0.5 |  |" in table
    ran = CliRunner().invoke(app, ["leaderboard", first, second, "--format", "json"])
    assert [row["suite"] for row in json.loads(ran.stdout)] == ["second", "tiny"]
    ran = CliRunner().invoke(app, ["leaderboard", first, second, "--format", "latex"])
    assert r"score $\downarrow$" in ran.stdout
    assert r"\begin{tabular}{lllllrrr}" in ran.stdout


def test_a_leaderboard_has_one_number_for_a_curve(tmp_path: Path) -> None:
    """Straight over log NFE, on the NFE that all curves cover; a model with one NFE has no curve."""
    first = made_up({("even", 2): [3.0], ("even", 4): [3.0], ("even", 32): [3.0], ("single", 8): [0.0]})
    second = made_up({("falling", 4): [2.0], ("falling", 16): [0.0]}, name="second")
    long = second.cases[0].model_copy(update={"resolved": {"data": {"type": "markov", "length": 32}}})
    second = second.model_copy(update={"cases": (long,)})
    board = merge([save(first, tmp_path / "a"), save(second, tmp_path / "b")])
    assert board.span == (4, 16)
    assert sorted(board.areas.values()) == [1.0, 3.0]
    header = board.grid().header
    assert header[5:] == ["NFE", "tokens/evaluation", "score ↓", "score, mean over NFE 4 to 16 ↓", "evaluations"]
    rows = {(row[0], row[5]): row[6:9:2] for row in board.grid().rows}
    assert rows[("falling", "4")] == ["8", "1"]
    assert rows[("falling", "16")] == ["2", "1"]
    assert rows[("even", "32")] == ["", "3"]
    assert rows[("single", "8")] == ["", ""]
    plain = {(row["model"], row["nfe"]): row for row in board.plain()}
    assert plain[("falling", 4)]["tokens_per_evaluation"] == 8
    assert plain[("falling", 4)]["mean_over_nfe"] == 1.0


@pytest.mark.parametrize(
    ("curve", "low", "high", "mean"),
    [
        ([(1, 0.0), (4, 2.0)], 1, 4, 1.0),
        ([(1, 0.0), (4, 2.0)], 2, 4, 1.5),
        ([(1, 0.0), (2, 4.0), (4, 0.0)], 1, 4, 2.0),
        ([(4, 0.0), (1, 0.0), (2, 4.0)], 1, 4, 2.0),
        ([(1, 1.0), (1, 3.0), (4, 2.0)], 1, 4, 2.0),
        ([(2, 1.0), (4, 1.0)], 1, 4, None),
        ([(1, 1.0)], 1, 4, None),
        ([(1, 1.0), (4, 1.0)], 4, 4, None),
    ],
)
def test_the_mean_over_a_curve(curve: Points, low: float, high: float, mean: float | None) -> None:
    assert mean_over_nfe(curve, low, high) == (None if mean is None else pytest.approx(mean))


def test_curves_without_a_common_range_have_no_mean() -> None:
    assert means_over_nfe({"a": [(1, 1.0), (2, 1.0)], "b": [(4, 1.0), (8, 1.0)]}) == ({}, None)
    assert means_over_nfe({"a": [(1, 1.0)]}) == ({}, None)


def test_values_that_do_not_compare_are_not_ranked(tmp_path: Path) -> None:
    here, there = save(made_up(BEFORE), tmp_path / "a"), save(made_up(BEFORE, data="xyz"), tmp_path / "b")
    with pytest.raises(UserError, match=r"of different data, which do not rank \(abc: .*; xyz: .*--data"):
        merge([here, there])
    assert len(merge([here, there], data="xy").entries) == 3
    with pytest.raises(UserError, match="no results of data 'q'; known: abc, xyz"):
        merge([here, there], data="q")
    few = save(made_up(BEFORE, samples=5), tmp_path / "c")
    with pytest.raises(UserError, match="different numbers of samples"):
        merge([here, few])
    with pytest.raises(UserError, match=r"no value named 'scor'.*did you mean 'score'"):
        merge([here], value="scor")


def test_results_of_version_1_rank_by_the_settings_of_their_data(tmp_path: Path) -> None:
    old = save(made_up(BEFORE, data=None), tmp_path / "a")
    assert len(merge([old, save(made_up(BEFORE, data=None), tmp_path / "b")]).entries) == 6


# -------------------------------------------------------------------- tables


def test_a_table_for_latex() -> None:
    text = Grid(["a_b ↓", "n"], [["50% & more", "1 ± 2"]]).latex().splitlines()
    assert text == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\_b $\downarrow$ & n \\",
        r"\midrule",
        r"50\% \& more & 1 $\pm$ 2 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_budgets_that_differ_are_told() -> None:
    teacher = case("teacher", 5e6)
    alike = (teacher, case("a", 1000, "teacher"), case("b", 1050, "teacher"))
    apart = (teacher, case("a", 1000, "teacher"), case("b", 2500, "teacher"))
    results = made_up(BEFORE)
    assert budgets(results.model_copy(update={"cases": alike})) == ""
    assert budgets(results.model_copy(update={"cases": apart})) == (
        "Budgets differ: the training of b took 2.5 times the network evaluations of a (2,500 and 1,000)."
    )

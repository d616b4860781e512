"""Sweeps of recipe keys: cases before anything trains, a surface with its best point and edges, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import write_files

from fewstep.bench.report.surface_plot import surface_figure
from fewstep.bench.report.tables import surface_grid
from fewstep.bench.results.results import CaseResult, Estimate, Results, Summary, SweepPoint
from fewstep.bench.results.surfaces import Surface, SurfacePoint, sentences, surfaces
from fewstep.bench.running.plan import make_plan
from fewstep.bench.running.runner import run_suite
from fewstep.bench.suites.loading import load_suite
from fewstep.bench.suites.recipe_sweep import point_name, points_of, read_ranges
from fewstep.core.errors import RecipeError

Write = Callable[..., str]
TEACHER: dict[str, Any] = {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]}
STUDENT: dict[str, Any] = {"name": "student", "recipe": "./student.yaml", "teacher": "teacher", "steps": [1, 2]}
RATES = [0.001, 0.002, 0.004]


def suite_of(*cases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"cases": [TEACHER, *cases], "claims": [], "quick": None, **changes}


def swept(**sweep: Any) -> dict[str, Any]:
    return {**STUDENT, "sweep": {"steps": 2, **sweep}}


def problems(source: str) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        make_plan(load_suite(source), Path("unused"))
    assert all(problem.source == source and problem.line for problem in caught.value.problems)
    assert len({problem.key for problem in caught.value.problems}) == len(caught.value.problems)
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("sweep", "key", "message"),
    [
        ({"optim.lrr": [1, 2]}, ".optim.lrr", "optim.lrr: unknown key 'lrr'; did you mean 'lr'?"),
        ({"optim.lr": [1e-3, "fast"]}, ".optim.lr", "optim.lr: should be a valid number"),
        ({"objektive": ["dmmd", "denoising"]}, ".objektive", "unknown key 'objektive'; did you mean 'objective'?"),
        ({"lr": [1, 2]}, ".lr", "unknown key 'lr'; keys of a recipe have dots, such as optim.lr"),
        ({"optim.lr": 1e-3}, ".optim.lr", "give a list of values or a range"),
        ({"optim.lr": [1e-3]}, ".optim.lr", "at least two values"),
        ({"optim.lr": [1e-3, 1e-3]}, ".optim.lr", "0.001 is listed twice"),
        ({"optim.lr": [[1], 2]}, ".optim.lr", "values are numbers, words, true, false or null, not [1]"),
        ({"optim.lr": {"from": 1e-3, "to": 1e-2}}, ".optim.lr", "add `count: N`"),
        ({"optim.lr": {"from": 1e-2, "to": 1e-3, "count": 3}}, ".optim.lr", "the lower one first, not 0.01 and 0.001"),
        ({"optim.lr": {"from": 0, "to": 1, "count": 3, "scale": "log"}}, ".optim.lr", "begins above 0, not at 0"),
        ({"optim.lr": {"from": 1, "to": 2, "cuont": 3}}, ".optim.lr", "unknown key 'cuont' of a range; did you mean"),
        ({"optim.lr": {"from": 1, "to": 2, "count": 1}}, ".optim.lr", "a whole number from 2 on, not 1"),
        ({"optim.lr": {"from": 1, "to": 2, "count": 2, "scale": "ln"}}, ".optim.lr", "is linear or log, not ln"),
        ({"name": ["a", "b"]}, ".name", "cannot be swept"),
        ({"optim.lr": [1, 2], "draws": 3}, "", "3 draws of 2 combinations"),
        ({"optim.lr": {"from": 1, "to": 2, "count": 999}}, "", "999 combinations are more than 200; add `draws: N`"),
        ({"optim.lr": [1, 2], "temperature": [0.5, 1]}, "", "not both; make it two cases"),
    ],
)
def test_mistakes_stand_where_they_are(write_suite: Write, sweep: dict[str, Any], key: str, message: str) -> None:
    messages = problems(write_suite(**suite_of(swept(**sweep))))
    assert message in messages[f"cases[1].sweep{key}"]


def test_a_swept_case_is_no_single_model(write_suite: Write) -> None:
    again = {"name": "again", "model": "student", "steps": [2]}
    claim = {"case": "student", "steps": 2, "against": "teacher", "expect": "not_worse"}
    source = write_suite(**suite_of(swept(**{"optim.lr": [1e-3, 2e-3]}), again, claims=[claim]))
    message = "case 'student' is swept into several models; name a case that is one"
    assert problems(source) == {"cases[2].model": message, "claims[0].case": message}


def test_nothing_is_swept_without_a_training(write_suite: Write) -> None:
    again = {"name": "again", "model": "teacher", "steps": [2], "sweep": {"optim.lr": [1e-3, 2e-3]}}
    assert "nothing is trained for this case" in problems(write_suite(**suite_of(again)))["cases[1].sweep"]


def test_budgets_are_equal(write_suite: Write) -> None:
    more = {**swept(**{"optim.lr": RATES}), "name": "more"}
    fewer = {**swept(**{"optim.lr": [1e-3, 2e-3]}), "name": "fewer"}
    message = problems(write_suite(**suite_of(more, fewer)))["cases[1].sweep"]
    assert "(more 3, fewer 2)" in message
    assert "add `draws: 2` for an equal budget" in message
    more["sweep"]["draws"] = 2
    assert len(load_suite(write_suite(**suite_of(more, fewer))).suite.cases) == 5


def test_a_grid_has_all_combinations() -> None:
    ranges = read_ranges({"a.x": [1, 2], "b.y": {"from": 0.01, "to": 1, "count": 3, "scale": "log"}})
    expected = [{"a.x": x, "b.y": y} for x in (1, 2) for y in (0.01, 0.1, 1.0)]
    assert points_of(ranges, None, 0) == expected
    whole = read_ranges({"n": {"from": 2, "to": 8, "count": 4}})
    assert points_of(whole, None, 0) == [{"n": n} for n in (2, 4, 6, 8)]


def test_draws_are_different_and_follow_from_the_seed() -> None:
    ranges = read_ranges({"x": {"from": 1e-4, "to": 1e-2, "scale": "log"}, "y": ["a", "b"]})
    points = points_of(ranges, 40, seed=3)
    assert points == points_of(ranges, 40, seed=3) != points_of(ranges, 40, seed=4)
    xs = [float(str(point["x"])) for point in points]
    assert len(set(map(str, points))) == 40
    assert all(1e-4 <= x <= 1e-2 for x in xs)
    below = sum(x < 1e-3 for x in xs)  # half of a log range; 40 draws leave 8 to 32 with probability 1 - 1e-4
    assert 8 <= below <= 32
    assert {point["y"] for point in points} == {"a", "b"}
    few = points_of(read_ranges({"x": [1, 2], "y": [1, 2]}), 4, 0)
    assert sorted(map(str, few)) == sorted(map(str, points_of(read_ranges({"x": [1, 2], "y": [1, 2]}), None, 0)))


def test_cases_are_made_before_anything_trains(write_suite: Write) -> None:
    source = write_suite(**suite_of(swept(**{"optim.lr": RATES, "objective.k": [2, 4]})))
    loaded = load_suite(source)
    assert len(loaded.suite.cases) == 7
    assert loaded.suite.cases[2].name == "student-lr-0_001-k-4"
    assert loaded.suite.cases[2].label == "student, lr 0.001, k 4"
    plan = make_plan(loaded, Path("unused"))
    recipes = [case.recipe for case in plan.cases[1:]]
    assert [(recipe.optim.lr, recipe.objective.k) for recipe in recipes] == [  # type: ignore[attr-defined]
        (rate, k) for rate in RATES for k in (2, 4)
    ]
    assert len({case.digest for case in plan.cases}) == 7


def test_names_can_be_file_names() -> None:
    assert point_name("s", {"process.schedule": "log linear", "x.y": -0.5}, ["process.schedule", "x.y"]) == (
        "s-schedule-log-linear-y--0_5"
    )
    assert point_name("s", {"a.lr": 1, "b.lr": None}, ["a.lr", "b.lr"]) == "s-a_lr-1-b_lr-none"


def test_quick_takes_the_ends(write_suite: Write) -> None:
    quick = {"samples": 16, "set": ["train.steps=4"]}
    source = write_suite(**suite_of(swept(**{"optim.lr": RATES}), quick=quick))
    cases = load_suite(source, quick=True).suite.cases
    assert [case.name for case in cases] == ["teacher", "student-lr-0_001", "student-lr-0_004"]
    assert cases[1].set == ("train.steps=4", "optim.lr=0.001")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("surface")
    source = write_files(place, **suite_of(swept(**{"optim.lr": RATES}), seeds=[0, 1]))
    return run_suite(source, str(place / "out"))


@pytest.mark.medium
def test_a_sweep_has_sentence_table_and_plot(folder: Path) -> None:
    results = Results.load(folder / "results.json")
    (surface,) = surfaces(results)
    values = {case.name: case.swept for case in results.cases}
    assert values["teacher"] is None
    assert [values[f"student-lr-0_00{n}"].point for n in (1, 2, 4)] == [{"optim.lr": rate} for rate in RATES]  # type: ignore[union-attr]
    means = {
        entry.point["optim.lr"]: results.find(f"student-lr-{entry.point['optim.lr']}".replace(".", "_"), 2)
        for entry in surface.points
    }
    best = min(means, key=lambda rate: means[rate].values["ngram_tv"].mean)  # type: ignore[union-attr]
    assert surface.best.point == {"optim.lr": best}
    (sentence,) = sentences(results)
    assert sentence.startswith(f"Best of student at 2 steps: lr {best:g} with ngram_tv ")
    assert ("edge of its range (0.001 to 0.004)" in sentence) == (best != 0.002)
    assert sentence in (folder / "results.md").read_text()
    report = (folder / "report.html").read_text()
    assert "Sweep of student: optim.lr" in report
    assert (folder / "surface-student.png").stat().st_size > 10_000


def made_up(values: dict[tuple[Any, ...], float], keys: tuple[str, ...], direction: str = "lower") -> Surface:
    points = []
    for place, value in values.items():
        estimate = Estimate(mean=value, stderr=0.1, n=2)
        summary = Summary(case=str(place), steps=4, nfe=4, values={"score": estimate})
        points.append(SurfacePoint(dict(zip(keys, place, strict=True)), summary))
    return Surface("student", "Student", "score", direction, 4, tuple(points))


@pytest.mark.parametrize(
    ("best", "direction", "edges"),
    [(2, "lower", []), (1, "lower", [("x", False)]), (4, "lower", [("x", True)]), (4, "higher", [("x", True)])],
)
def test_a_best_at_an_edge_is_named(best: int, direction: str, edges: list[tuple[str, bool]]) -> None:
    sign = -1 if direction == "higher" else 1
    surface = made_up({(x,): sign * (1.0 if x == best else 5.0) for x in (1, 2, 4)}, ("x",), direction)
    assert surface.best.point == {"x": best}
    assert [(edge.key, edge.at_top) for edge in surface.edges] == edges
    assert len(surface.level) == 1


def test_words_have_no_edge_and_ties_are_level() -> None:
    surface = made_up({("a", 1): 1.0, ("b", 1): 1.05, ("b", 2): 3.0}, ("kind", "x"))
    assert [edge.text for edge in surface.edges] == [
        "x is at the lower edge of its range (1 to 2); try values beyond it"
    ]
    assert len(surface.level) == 2


def results_with(surface: Surface, results: Results) -> Results:
    return results.model_copy(update={"headline": "score", "directions": {"score": "lower"}})


def test_two_keys_are_a_heat_map_with_the_best_marked(finished: Path) -> None:
    values = {(x, y): math.hypot(x - 2, y - 20) for x in (1, 2, 4) for y in (10, 20)}
    surface = made_up(values, ("x", "y"))
    results = results_with(surface, Results.load(finished / "results.json"))
    figure = surface_figure(results, surface)
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == 6
    assert [text for text in texts if "★" in text] == ["★ 0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]
    grid = surface_grid(results, surface)
    assert grid.header == ["x", "y", "score ↓"]
    assert grid.best == {(3, 2)}


def test_random_points_of_two_keys_are_dots(finished: Path) -> None:
    values = {(10.0**-x, 1.7 * x): float(x) for x in range(1, 7)}
    surface = made_up(values, ("x", "y"))
    figure = surface_figure(results_with(surface, Results.load(finished / "results.json")), surface)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_major_formatter()(1e-3) == "0.001"
    assert [len(dots.get_offsets()) for dots in axes.collections] == [6]
    assert [text.get_text() for text in axes.texts] == ["★ 1", "2", "3", "4", "5", "6"]


def test_three_keys_have_a_panel_each(finished: Path) -> None:
    values = {(x, y, z): float(x) for x in (1, 2) for y in ("a", "b") for z in (1e-4, 1e-1)}
    surface = made_up(values, ("x", "y", "z"))
    figure = surface_figure(results_with(surface, Results.load(finished / "results.json")), surface)
    assert [axes.get_xlabel() for axes in figure.axes] == ["x", "y", "z"]
    assert figure.axes[2].get_xscale() == "log"
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["a", "b"]


def test_results_without_sweeps_read_as_before(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    assert surfaces(results) == []
    assert CaseResult.model_fields["swept"].default is None
    assert SweepPoint(case="a", label="A", steps=1, point={"x": None}).point == {"x": None}

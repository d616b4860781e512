"""Sweeps: a model sampled with several values of a setting, as a curve of quality against diversity."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import PathPatch
from tiny_suite import made_up_row, write_files

from fewstep.bench.report.compare import compare_results
from fewstep.bench.report.frontier_plot import Point, band, frontier_figure
from fewstep.bench.report.leaderboard import merge
from fewstep.bench.report.tables import frontier_grid, markdown, value_grid
from fewstep.bench.results.results import Results, Row
from fewstep.bench.results.summary import summarise, summarise_sweeps
from fewstep.bench.running.plan import make_plan
from fewstep.bench.running.runner import run_suite
from fewstep.bench.suites.loading import load_suite
from fewstep.core.errors import RecipeError

Write = Callable[..., str]
METRICS = [{"type": "ngram_distance", "order": 2}, "sample_entropy"]
TEMPERATURES = [0.05, 1.0, 3.0]
CASES: list[dict[str, Any]] = [
    {
        "name": "teacher",
        "recipe": "./teacher.yaml",
        "steps": [2, 4],
        "sweep": {"temperature": TEMPERATURES, "steps": 4},
    },
    {
        "name": "again",
        "model": "teacher",
        "steps": [4],
        "sweep": {"temperature": [0.1, 0.5], "top_p": [0.5, 0.9]},
        "label": "Once more",
    },
]
SWEPT: dict[str, Any] = {"metrics": METRICS, "diversity": "sample_entropy", "cases": CASES, "claims": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sweep")
    return run_suite(write_files(place, **SWEPT), str(place / "out"))


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return Results.load(folder / "results.json")


def problems(source: str) -> dict[str, str]:
    """Messages by key, after a check that each says where in the suite it stands."""
    with pytest.raises(RecipeError) as caught:
        make_plan(load_suite(source), Path("unused"))
    assert all(problem.source == source and problem.line for problem in caught.value.problems)
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("sweep", "steps", "key", "message"),
    [
        ({"temprature": [1, 2]}, [2], ".temprature", "unknown key 'temprature'; did you mean 'temperature'?"),
        ({}, [2], "", "give values of temperature, of top_p, or of each: sweep: {temperature: [0.7, 0.85, 1.0]}"),
        ({"temperature": [1, 2], "top_p": [0.5]}, [2], ".top_p", "a curve needs at least two values"),
        ({"temperature": [1]}, [2], ".temperature", "a curve needs at least two values"),
        ({"temperature": [0.5, 1, 0.5]}, [2], ".temperature", "0.5 is listed twice"),
        ({"temperature": [0.5, 0]}, [2], ".temperature[1]", "should be greater than 0, not 0"),
        ({"top_p": [0.5, 1.5]}, [2], ".top_p[1]", "should be less than or equal to 1, not 1.5"),
        ({"temperature": 0.5}, [2], ".temperature", "should be a list"),
        ({"top_p": [0.5, 1]}, [2, 4], "", "add `steps: N`, the number of steps of the sweep; the case is measured"),
        ({"top_p": [0.5, 1], "steps": 8}, [2, 4], ".steps", "the case is not measured at 8 steps; it is at 2, 4"),
    ],
)
def test_mistakes_are_told_where_they_are(
    write_suite: Write, sweep: dict[str, Any], steps: list[int], key: str, message: str
) -> None:
    cases = [{"name": "teacher", "recipe": "./teacher.yaml", "steps": steps, "sweep": sweep}]
    found = problems(write_suite(**{**SWEPT, "cases": cases}))
    assert found.keys() == {f"cases[0].sweep{key}"}
    assert message in found[f"cases[0].sweep{key}"]


def test_a_sweep_needs_a_value_of_diversity(write_suite: Write) -> None:
    found = problems(write_suite(**{**SWEPT, "diversity": None}))
    message = "its plot is quality against diversity: name a value with the suite's `diversity`"
    assert found == {"cases[0].sweep": message, "cases[1].sweep": message}


def test_a_sampler_must_have_the_setting(write_suite: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.bench.running import plan
    from fewstep.core.errors import Problem

    def refuses(recipe: Any, sampler: Any = None, settings: Any = None, *, steps: Any) -> Any:
        if settings and settings.get("temperature") == 1.0:
            raise RecipeError([Problem("--temperature", None, "sampler", "does not go with that")])
        return recipe

    source = write_suite(**SWEPT)
    monkeypatch.setattr(plan, "with_sampler", refuses)
    assert problems(source) == {"cases[0].sweep.temperature[1]": "does not go with that"}
    monkeypatch.undo()
    monkeypatch.setattr("fewstep.bench.suites.sweep.SweepSpec.settings", {"heat": (1.0, 2.0)})
    assert problems(source)["cases[0].sweep.heat"] == "sampler 'ancestral' has no heat"


def test_rows_carry_the_value(results: Results) -> None:
    rows = [row for row in results.rows if row.sweep]
    assert [(row.case, row.steps, row.sweep, row.seed) for row in rows] == [
        *(("teacher", 4, {"temperature": t}, seed) for t in TEMPERATURES for seed in (0, 1, 2)),
        *(("again", 4, {"temperature": t}, seed) for t in (0.1, 0.5) for seed in (0, 1, 2)),
        *(("again", 4, {"top_p": p}, seed) for p in (0.5, 0.9) for seed in (0, 1, 2)),
    ]
    for row in rows:
        assert row.sampler is not None
        assert row.sweep is not None
        assert row.sweep.items() <= row.sampler.items()
        assert row.nfe == 4
    assert len({row.key for row in results.rows}) == len(results.rows)


def test_the_samplers_own_value_gives_what_is_measured_anyway(results: Results) -> None:
    """Temperature 1 is the recipe's: the same seeds draw the same samples, with and without a sweep."""
    base = [row.values for row in results.rows if (row.case, row.steps, row.sweep) == ("teacher", 4, None)]
    swept = [row.values for row in results.rows if row.sweep == {"temperature": 1.0}]
    assert base == swept
    assert base != [row.values for row in results.rows if row.sweep == {"temperature": 3.0}]


def test_points_are_means_over_seeds_and_diversity_rises_with_temperature(results: Results) -> None:
    points = {tuple(point.sweep.items()): point for point in results.frontier}
    assert len(points) == 7
    entropies = [points[("temperature", t),].values["sample_entropy"] for t in TEMPERATURES]
    assert entropies[0].mean < 0.5 * entropies[1].mean
    assert all(value.n == 3 and value.stderr for value in entropies)
    narrow, wide = (points[("top_p", p),].values["sample_entropy"].mean for p in (0.5, 0.9))
    assert narrow < wide
    at_zero = [row.values["sample_entropy"] for row in results.rows if row.sweep == {"temperature": 0.05}]
    assert entropies[0].mean == pytest.approx(sum(at_zero) / 3)


def test_nothing_else_sees_them(results: Results, folder: Path) -> None:
    """Summary, ranking and comparison are of what the recipes sample with."""
    assert [(s.case, s.steps) for s in results.summary] == [
        ("data", None),
        ("teacher", 2),
        ("teacher", 4),
        ("again", 4),
    ]
    assert len(value_grid(results).rows) == 4
    assert len(merge([folder]).entries) == 3
    assert len(compare_results(results, results, {}).changes) == 3 * sum(
        w != "info" for w in results.directions.values()
    )


def test_trainings_count_once_each() -> None:
    rows = [
        made_up_row("a", 2, seed, 10.0 * training + seed, training).model_copy(update={"sweep": {"top_p": 0.5}})
        for training in (1, 2)
        for seed in (0, 1)
    ]
    assert summarise(rows) == []
    (point,) = summarise_sweeps(rows)
    assert point.trainings == {1: {"score": 10.5}, 2: {"score": 20.5}}
    assert (point.values["score"].mean, point.values["score"].n, point.sweep) == (15.5, 2, {"top_p": 0.5})


def test_tables(results: Results, folder: Path) -> None:
    grid = frontier_grid(results)
    assert grid.header[:4] == ["model", "setting", "NFE", "ngram_tv ↓"]
    assert grid.rows[0][:3] == ["teacher", "temperature 0.05", "4"]
    assert grid.rows[-1][:3] == ["again (Once more)", "top_p 0.9", "4"]
    text = markdown(results)
    assert "| teacher | temperature 0.05 | 4 |" in text
    assert "![frontiers](frontier.png)" in text
    assert "again (Once more) & top\\_p 0.5 & 4 &" in (folder / "frontier.tex").read_text()


def test_report(folder: Path) -> None:
    page = re.sub(r"base64,[A-Za-z0-9+/=]*", "", (folder / "report.html").read_text())
    assert "<h2>Frontiers: quality by diversity</h2>" in page
    assert '<td class="word">temperature 0.05</td>' in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == 1 + 3 + 7
    assert sum(bool(re.match(r"Once more, 4 NFE, top_p 0\.[59]: ngram_tv", caption)) for caption in captions) == 2
    sheets = {file.name for file in (folder / "samples").iterdir()}
    assert len(sheets) == 11
    assert {"teacher-steps4.txt", "teacher-steps4-temperature-0_05.txt", "again-steps4-top_p-0_9.txt"} <= sheets


def test_what_was_measured_is_reused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((folder / "results.json").read_text())["rows"]
    run_suite(str(folder.parent / "suite.yaml"), str(folder))
    out = capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text())["rows"] == before
    assert re.search(r"4 NFE, temperature 0.05: ngram_tv .*\(measured before\)", out)
    assert "; temperature 0.05, 1, 3 at 4 steps" in out


@pytest.mark.medium
def test_a_sweep_that_is_added_reuses_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [{key: value for key, value in case.items() if key != "sweep"} for case in CASES]
    out = str(tmp_path / "out")
    run_suite(write_files(tmp_path, **{**SWEPT, "cases": plain}), out)
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not (tmp_path / "out" / "frontier.png").exists()
    assert first["frontier"] == []
    capsys.readouterr()
    run_suite(write_files(tmp_path, **SWEPT), out)
    assert "finished before, reused" in capsys.readouterr().out
    second = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row for row in second["rows"] if row["sweep"] is None] == first["rows"]


def _rows(folder: Path) -> tuple[Row, ...]:
    return Results.load(folder / "results.json").rows


@pytest.mark.medium
def test_two_processes_measure_the_same(results: Results, folder: Path, tmp_path: Path) -> None:
    out = run_suite(str(folder.parent / "suite.yaml"), str(tmp_path / "out"), jobs=2)
    ours, theirs = ([(row.case, row.sweep, row.values) for row in rows] for rows in (_rows(out), results.rows))
    assert ours == theirs


def test_quick_takes_the_ends(write_suite: Write) -> None:
    suite = load_suite(write_suite(**SWEPT), quick=True).suite
    sweeps = [case.sweep for case in suite.cases]
    ends = [{"temperature": (0.05, 3.0)}, {"temperature": (0.1, 0.5), "top_p": (0.5, 0.9)}]
    assert [sweep and sweep.settings for sweep in sweeps] == ends
    assert [sweep and sweep.step_count(case.steps) for sweep, case in zip(sweeps, suite.cases, strict=True)] == [2, 2]
    kept = load_suite(write_suite(**SWEPT, quick={"samples": 8}), quick=True).suite.cases[0].sweep
    assert kept
    assert kept.steps == 4


def test_the_picture(results: Results) -> None:
    """One curve a case, in order of the values, each value beside its point, in a band of a standard error."""
    figure = frontier_figure(results)
    (axes,) = figure.axes
    curves = {line.get_label().replace("\n", " "): line for line in axes.lines}
    names = [
        "teacher, 4 NFE, temperature",
        "Once more, 4 NFE, temperature",
        "Once more, 4 NFE, top_p",
    ]
    assert list(curves) == [*names, "real samples"]
    lines = [curves[name] for name in names]
    assert lines[0].get_color() != lines[1].get_color() == lines[2].get_color()
    assert lines[0].get_linestyle() == lines[1].get_linestyle() != lines[2].get_linestyle()
    points = [point for point in results.frontier if point.case == "teacher"]
    xs = [point.values["sample_entropy"].mean for point in points]
    assert lines[0].get_xdata() == pytest.approx(xs)
    assert [text.get_text() for text in axes.texts] == ["0.05", "1", "3", "0.1", "0.5", "0.5", "0.9"]
    bands = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
    assert len(bands) == 3
    box = bands[0].get_path().get_extents()
    for name, low, high in (("sample_entropy", box.x0, box.x1), ("ngram_tv", box.y0, box.y1)):
        values = [point.values[name] for point in points]
        assert low == pytest.approx(min(value.mean - value.stderr for value in values))
        assert high == pytest.approx(max(value.mean + value.stderr for value in values))
    assert axes.get_xlabel() == "diversity of samples (entropy)\nsample_entropy"
    assert axes.get_ylabel() == "distance to the data (n-grams)\nngram_tv, lower is better"


def test_values_come_in_order_whatever_that_of_the_suite(results: Results) -> None:
    turned = results.model_copy(update={"frontier": results.frontier[::-1]})
    lines = [frontier_figure(these).axes[0].lines for these in (results, turned)]
    assert list(lines[0][0].get_xdata()) == list(lines[1][2].get_xdata())


def _inside(polygon: list[tuple[float, float]], x: float, y: float) -> bool:
    """Within a convex polygon whose corners go round against the clock, or on its edge."""
    sides = zip(polygon, [*polygon[1:], polygon[0]], strict=True)
    return all((bx - ax) * (y - ay) - (by - ay) * (x - ax) >= -1e-12 for (ax, ay), (bx, by) in sides)


def _area(polygon: list[Any]) -> float:
    """Twice that of a polygon, above 0 if its corners go round against the clock."""
    turned = [*polygon[1:], polygon[0]]
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(polygon, turned, strict=True))


@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (0, 1)])
def test_the_band_covers_the_curve_and_its_errors(dx: int, dy: int) -> None:
    ends = [Point(0.0, 0.0, 0.1, 0.2, 1.0), Point(float(dx), float(dy), 0.1, 0.2, 2.0)]
    polygons = band(ends)
    assert len(polygons) == 3
    for polygon in polygons:
        assert _area(polygon) > 0, "all go round in one sense, so that none cuts a hole into another"
    for share in (0.0, 0.3, 0.8, 1.0):
        for sign in (-1, 1):
            assert _inside(polygons[2], share * dx + sign * 0.1, share * dy)
            assert _inside(polygons[2], share * dx, share * dy + sign * 0.2)
    assert not _inside(polygons[2], 0.5 * dx + 0.5 * dy + 0.2, 0.5 * dy - 0.5 * dx - 0.4)


def test_one_seed_has_a_curve_without_a_band(results: Results) -> None:
    alone = []
    for point in results.frontier:
        values = {name: value.model_copy(update={"stderr": None}) for name, value in point.values.items()}
        alone.append(point.model_copy(update={"values": values}))
    (axes,) = frontier_figure(results.model_copy(update={"frontier": tuple(alone)})).axes
    assert len(axes.lines) == 4
    areas = [_area(polygon.tolist()) for patch in axes.patches for polygon in patch.get_path().to_polygons()]
    assert areas == pytest.approx([0.0] * len(areas), abs=1e-9)

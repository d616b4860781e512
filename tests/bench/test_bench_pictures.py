"""Pictures of results: nothing covers anything, and every case can be told from the others."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fewstep.bench.report.canvas import COLOURS, DASHES, MARKERS, ORACLE, in_words, styles, wrapped
from fewstep.bench.report.diversity_plot import dense_interval, diversity_figure
from fewstep.bench.report.finding import finding
from fewstep.bench.report.plot import nfe_ticks, quality_figure
from fewstep.bench.results.results import Estimate, Results, Summary

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "benchmarks" / "results").glob("*/*.json"))
DISTILLERS = next(path for path in COMMITTED if path.parent.name == "distillers")
LONG = "A case whose label goes on and on, as labels of samplers and schedules do"


def made_up(cases: int, label: str = "Case {}", spread: float = 0.1) -> Results:
    """Committed results with so many cases in the place of theirs, at 1, 2, 4 and 8 evaluations."""
    base = Results.load(DISTILLERS)
    case = base.cases[0].model_copy(update={"teacher": None, "model": None, "train_seed": None})
    named = [case.model_copy(update={"name": f"c{i}", "label": label.format(i)}) for i in range(cases)]

    def summary(index: int, steps: int) -> Summary:
        value = Estimate(mean=(1 + index) / steps, stderr=spread / steps, n=3)
        entropy = Estimate(mean=1.7 + 0.01 * steps, stderr=0.0, n=3)
        values = {base.headline: value, str(base.diversity): entropy}
        return Summary(case=f"c{index}", steps=steps, nfe=steps, values=values)

    rows = tuple(summary(index, steps) for index in range(cases) for steps in (1, 2, 4, 8))
    real = tuple(s for s in base.summary if s.case == "data")
    return base.model_copy(update={"cases": tuple(named), "summary": (*rows, *real), "claims": ()})


def boxes(figure: Any) -> tuple[Any, list[Any]]:
    """Where the legend and the axes with their ticks and labels are, in pixels, after everything was laid out."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    return figure.legends[0].get_window_extent(renderer), [axes.get_tightbbox(renderer) for axes in figure.axes]


def check(figure: Any) -> None:
    """The legend covers no axes, everything is inside the picture, and the axes have most of it."""
    legend, axes = boxes(figure)
    whole = figure.bbox
    title = figure._suptitle.get_window_extent(figure.canvas.get_renderer())
    assert not title.overlaps(legend)
    for box in axes:
        assert not legend.overlaps(box)
        assert not title.overlaps(box)
    for box in (legend, title, *axes):
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= whole.x1 + 1
        assert box.y1 <= whole.y1 + 1
    inner = [axes.get_window_extent() for axes in figure.axes]
    assert sum(box.width for box in inner) > 0.5 * whole.width
    assert inner[0].height > 0.6 * whole.height


@pytest.mark.medium
@pytest.mark.parametrize("cases", [1, 2, 7, 8, 14, 16, 17, 40])
@pytest.mark.parametrize("label", ["Case {}", LONG + " {}"])
@pytest.mark.parametrize("draw", [quality_figure, diversity_figure])
def test_the_legend_covers_nothing(draw: Any, cases: int, label: str) -> None:
    if draw is quality_figure and cases > 16 and label != "Case {}":
        results = made_up(cases, LONG[:60] + " {}")  # such labels are beside the rows, and take room there
        figure = draw(results)
        legend, axes = boxes(figure)
        assert not legend.overlaps(axes[0])
        return
    check(draw(made_up(cases, label)))


@pytest.mark.medium
@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_results_make_good_pictures(path: Path) -> None:
    results = Results.load(path)
    figures = [quality_figure(results)] + ([diversity_figure(results)] if results.diversity else [])
    for figure in figures:
        legend, axes = boxes(figure)
        assert not any(legend.overlaps(box) for box in axes)
        for axis in (*(panel.xaxis for panel in figure.axes), figure.axes[0].yaxis):
            labels = [tick.label1 for tick in axis.get_major_ticks() if tick.label1.get_text()]
            shown = [label.get_window_extent() for label in labels]
            assert len(shown) >= 2, "an axis with less than two numbers cannot be read"
            assert not any(a.overlaps(b) for a, b in pairwise(shown))


def test_a_long_title_is_broken_and_stays_inside() -> None:
    results = made_up(2)
    title = " ".join(["Distillers of discrete diffusion models"] * 5)
    figure = quality_figure(results.model_copy(update={"suite": results.suite.model_copy(update={"title": title})}))
    assert figure._suptitle.get_text().split() == title.split()
    check(figure)


@pytest.mark.parametrize("draw", [quality_figure, diversity_figure])
@pytest.mark.parametrize("cases", [2, 17])
def test_dollars_and_backslashes_are_what_they_are(draw: Any, cases: int) -> None:
    figure = draw(made_up(cases, r"costs $5 or $\nothing{{ {}"))
    figure.canvas.draw()


def test_every_case_looks_different() -> None:
    looks = styles(made_up(156))
    assert len({(look.color, look.marker) for look in looks.values()}) == 156
    assert len(set(COLOURS)) == len(COLOURS)
    assert len(set(MARKERS)) == len(MARKERS)
    few = list(styles(made_up(len(COLOURS))).values())
    assert len({look.color for look in few}) == len(COLOURS)
    assert len({look.marker for look in few[: len(MARKERS)]}) == len(MARKERS)


def test_what_learns_from_one_teacher_has_its_dashes() -> None:
    looks = styles(Results.load(DISTILLERS))
    masked, uniform = looks["teacher"].linestyle, looks["uniform-teacher"].linestyle
    assert (masked, uniform) == DASHES[:2]
    assert {looks[name].linestyle for name in ("sdtt", "dmmd", "tuned-sampler")} == {masked}
    assert {looks[name].linestyle for name in ("rectified", "uniform-dmmd", "uniform-searched")} == {uniform}


def test_an_exact_denoiser_is_told_apart_and_takes_no_family() -> None:
    path = next(path for path in COMMITTED if path.parent.name == "markov")
    results = Results.load(path)
    looks = styles(results)
    oracle = next(case.name for case in results.cases if case.oracle)
    assert looks[oracle].linestyle == ORACLE
    assert DASHES[0] in {look.linestyle for look in looks.values()}


def test_bands_are_the_standard_errors() -> None:
    figure = quality_figure(made_up(2, spread=0.25))
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(1.25)
    assert band.y0 == pytest.approx((1 - 0.25) / 8)


def test_points_of_many_cases_stand_side_by_side() -> None:
    few, many = (quality_figure(made_up(cases)).axes[0] for cases in (7, 8))
    first = [{float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 4} for axes in (few, many)]
    assert first[0] == {1.0}
    assert len(first[1]) == 8
    assert all(abs(x - 1) < 0.12 for x in first[1])
    assert "side by side" not in few.get_xlabel()
    assert "side by side" in many.get_xlabel()


def test_ticks_of_evaluations_leave_room() -> None:
    assert nfe_ticks({1, 2, 4, 8, 16}) == [1, 2, 4, 8, 16]
    assert nfe_ticks({3.9, 4, 7.2, 8, 10, 16}) == [4, 8, 16]
    assert nfe_ticks({3, 6, 12}) == [3, 6, 12]


def test_a_crowd_beside_outliers_has_a_panel_of_its_own() -> None:
    crowd = [1.75 + 0.005 * i for i in range(10)]
    low, high = dense_interval([0.0, *crowd]) or (0.0, 0.0)
    assert (low, high) == (crowd[0], crowd[-1])
    assert dense_interval([0.1 * i for i in range(12)]) is None
    assert dense_interval([1.0, 1.0]) is None
    assert dense_interval([1.0] * 5) is None
    assert len(diversity_figure(Results.load(DISTILLERS)).axes) == 2
    assert len(diversity_figure(made_up(3)).axes) == 1


def test_dots_grow_with_evaluations_and_few_cases_have_them_as_numbers() -> None:
    figure = diversity_figure(made_up(2))
    sizes = [line.get_markersize() for line in figure.axes[0].lines if line.get_linestyle() == "None"][:4]
    assert sizes == sorted(set(sizes))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2", "4", "8"] * 2
    assert not diversity_figure(made_up(5)).axes[0].texts


def test_long_labels_are_wrapped() -> None:
    assert max(map(len, wrapped(LONG).split("\n"))) <= 27
    assert wrapped("x" * 60).count("\n") == 2


def redraw(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "benchmarks" / "pictures.py"), *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.mark.medium
def test_the_script_draws_committed_results_again(tmp_path: Path) -> None:
    ran = redraw(str(DISTILLERS), "--out", str(tmp_path / "new"), "--name", "mine")
    assert ran.returncode == 0, ran.stderr
    names = ["mine.png", "mine-diversity.png"]
    assert ran.stdout.split() == [str(tmp_path / "new" / name) for name in names]
    for name in names:
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")


def test_the_script_says_what_it_cannot_read(tmp_path: Path) -> None:
    ran = redraw(str(tmp_path / "absent.json"))
    assert ran.returncode == 2
    assert ran.stderr == f"cannot read '{tmp_path / 'absent.json'}': No such file or directory\n"


def kept() -> Results:
    return Results.load(next(path for path in COMMITTED if path.parent.name == "digits"))


def test_the_title_is_the_first_expectation_as_it_came_out() -> None:
    results = kept()
    first = results.claims[0]
    assert (first.case, first.steps, first.against, first.at) == ("student", 8, "teacher", 32)
    for verdict, words in (("better", "better than"), ("level", "level with"), ("worse", "worse than")):
        claim = first.model_copy(update={"verdict": verdict, "holds": verdict != "worse"})
        figure = quality_figure(results.model_copy(update={"claims": (claim,)}))
        assert figure._suptitle.get_text() == f"D-MMD student with 8 evaluations: {words} Teacher with 32"
        assert figure.axes[0].get_title(loc="left") == results.suite.title
        bars = [text for text in figure.axes[0].texts if text.get_text() == "4x fewer evaluations"]
        assert len(bars) == (verdict != "worse"), "a bar is drawn for what holds"
        check(figure)


def test_what_was_not_measured_is_no_title() -> None:
    results = kept()
    missing = results.claims[0].model_copy(update={"verdict": None, "holds": None})
    other = results.claims[1].model_copy(update={"value": "class_entropy"})
    figure = quality_figure(results.model_copy(update={"claims": (missing, other)}))
    assert finding(results.model_copy(update={"claims": (missing, other)})) is None
    assert figure._suptitle.get_text() == results.suite.title
    assert figure.axes[0].get_title(loc="left") == ""


def test_the_bar_lies_at_the_height_of_the_point_that_it_reaches() -> None:
    results = kept()
    found = finding(results)
    assert found is not None
    value = found.theirs.values[results.headline]
    axes = quality_figure(results).axes[0]
    bar = axes.collections[-1].get_paths()[0].get_extents()
    assert (bar.x0, bar.x1) == (8, 32)
    assert (bar.y0, bar.y1) == pytest.approx((value.mean - value.stderr, value.mean + value.stderr))


def test_values_have_words() -> None:
    from fewstep.metrics.base import METRICS

    assert in_words("fid") == "distance to the data (Inception)"
    assert in_words("of_a_plugin_that_went") == "of_a_plugin_that_went"
    for entry in METRICS.entries():
        assert entry.cls.words.keys() <= entry.cls.directions.keys(), entry.name
    headlines = {Results.load(path).headline for path in COMMITTED}
    assert not [name for name in headlines if in_words(name) == name], "the axis of a kept plot is its bare name"

"""What a person gets: tables, plot, sheets and a report that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_suite import made_up_row

from fewstep.bench.report.plot import draw_plot
from fewstep.bench.report.report import write_report
from fewstep.bench.report.tables import Grid, commands, conclusion, markdown, titled, value_grid
from fewstep.bench.results.results import Results
from fewstep.bench.results.summary import summarise
from fewstep.bench.running.runner import run_suite


@pytest.fixture
def results(finished: Path) -> Results:
    return Results.load(finished / "results.json")


def made_up(results: Results, values: dict[tuple[str, int | None], float], **changes: object) -> Results:
    """Results with other values of a headline called `score`, with seeds at +-1 around them."""
    rows = [made_up_row(case, k, seed, v + seed - 1) for (case, k), v in values.items() for seed in (0, 1, 2)]
    update = {
        "rows": tuple(rows),
        "summary": tuple(summarise(rows)),
        "headline": "score",
        "directions": {"score": "lower"},
        "claims": (),
    }
    return results.model_copy(update={**update, **changes})


def test_all_files_are_there(finished: Path) -> None:
    for name in ("results.json", "results.md", "results.tex", "quality_vs_nfe.png", "report.html"):
        assert (finished / name).stat().st_size > 0
    sheets = {path.name for path in (finished / "samples").iterdir()}
    steps = ("teacher-steps2", "teacher-steps4", "student-steps1", "student-steps2", "oracle-steps2")
    assert sheets == {"data.txt", *(f"{name}.txt" for name in steps)}
    assert len((finished / "samples" / "data.txt").read_text().split("\n\n")) == 50


def test_the_report_is_one_page_without_scripts_or_network(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources, "the plot is embedded"
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    visible = re.sub(r"base64,[A-Za-z0-9+/=]*", "", page)
    assert "http" not in visible
    assert "<script" not in visible
    assert "url(" not in visible
    assert '<meta name="viewport"' in visible


def test_the_report_says_what_was_measured(finished: Path, results: Results) -> None:
    page = re.sub(r"(</t[dh]>)\s+<", r"\1<", (finished / "report.html").read_text())
    title = "D-MMD on a tiny &lt;Markov&gt; source"
    assert f"<title>{title}</title>" in page
    assert f"<h1>{title}</h1>" in page
    assert "<Markov>" not in page
    assert results.claims[0].text in page
    assert conclusion(results) in page
    assert page.count("<figure>") == 6
    assert "fewstep distill ./student.yaml --teacher runs/teacher-" in page
    assert "backbone:\n  type: transformer" in page
    assert "Differences from the recipe of teacher:" in page
    assert '<td class="word">objective.type</td><td class="word">denoising</td><td class="word">dmmd</td>' in page
    assert "real samples" in page


def test_image_sheets_are_embedded(results: Results, tmp_path: Path) -> None:
    draw_plot(results, tmp_path / "quality_vs_nfe.png")
    (tmp_path / "sheet.png").write_bytes((tmp_path / "quality_vs_nfe.png").read_bytes())
    rows = tuple(row.model_copy(update={"sheet": "sheet.png"}) for row in results.rows[:4])
    page = write_report(results.model_copy(update={"rows": rows}), tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 5


def test_passes_have_a_column_where_they_are_not_the_evaluations(results: Results) -> None:
    teacher, *others = [s for s in results.summary if s.nfe]
    assert teacher.passes == teacher.nfe
    blocks = teacher.model_copy(update={"passes": teacher.nfe / 4})
    grid = value_grid(results.model_copy(update={"summary": (results.summary[0], blocks, *others)}))
    assert grid.header[:3] == ["model", "NFE", "passes"]
    assert [row[1:3] for row in grid.rows[:3]] == [["", ""], ["2", "0.5"], ["4", "4"]]
    assert {name for _, name in grid.best} == {c + 1 for _, c in value_grid(results).best}


def test_markdown_table(results: Results) -> None:
    grid = value_grid(results)
    assert grid.header[:3] == ["model", "NFE", "ngram_tv ↓"], "the headline comes first"
    assert [row[:2] for row in grid.rows] == [
        ["real samples", ""],
        ["teacher", "2"],
        ["teacher", "4"],
        ["student (D-MMD)", "1"],
        ["student (D-MMD)", "2"],
        ["oracle", "2"],
    ]
    text = markdown(results)
    assert grid.markdown() in text
    assert all(f"- {claim.text}" in text for claim in results.claims)
    assert results.suite.command in text
    assert "sampling seeds: 0, 1, 2" in text


@pytest.mark.parametrize(
    ("name", "label", "text"),
    [
        ("student", "D-MMD, noise input", "student (D-MMD, noise input)"),
        ("student", "student", "student"),
        ("uniform-student", "Uniform student, hard", "Uniform student, hard"),
    ],
)
def test_names_and_labels_are_not_repeated(name: str, label: str, text: str) -> None:
    assert titled(name, label) == text


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    assert Grid(["a", "b"], [["x|y", "1"]]).markdown() == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


@pytest.mark.parametrize(
    ("direction", "best", "first"),
    [
        ("lower", "8.00 ± 0.58 (teacher at 4 NFE)", "12.00 ± 0.58 (student at 2 NFE)"),
        ("higher", "40.00 ± 0.58 (teacher at 2 NFE)", None),
    ],
)
def test_the_conclusion_names_the_best_of_the_trained_models(
    results: Results, direction: str, best: str, first: str | None
) -> None:
    values: dict[tuple[str, int | None], float] = {("data", None): 5.0, ("teacher", 2): 40.0, ("teacher", 4): 8.0}
    values |= {("student", 2): 12.0, ("oracle", 2): 1.0}
    text = conclusion(made_up(results, values, direction=direction))
    assert f"he best score is {best}" in text
    assert "real samples score 5.00 ± 0.58" in text
    assert (f"with the fewest evaluations it is {first}" in text) if first else ("fewest" not in text)


def test_the_conclusion_counts_expectations(results: Results) -> None:
    first, second = results.claims
    claims = tuple(claim.model_copy(update={"holds": holds}) for claim, holds in ((first, False), (second, None)))
    text = conclusion(results.model_copy(update={"claims": claims}))
    assert text.startswith("0 of 1 expectations hold, 1 could not be measured in this run; ")


def test_commands_name_teacher_run_and_changes(results: Results) -> None:
    student = results.cases[1].model_copy(update={"set": ("data={type: markov}",)})
    lines = commands(results.model_copy(update={"cases": (results.cases[0], student)}))
    assert lines[0] == results.suite.command
    assert f"fewstep distill ./student.yaml --teacher {results.cases[0].run} --set 'data={{type: markov}}'" in lines


def test_plot_of_values_over_orders_of_magnitude_and_below_zero(results: Results, tmp_path: Path) -> None:
    wide: dict[tuple[str, int | None], float] = {("teacher", 2): 5000.0, ("teacher", 64): 5.0, ("data", None): 2.0}
    below: dict[tuple[str, int | None], float] = {("teacher", 2): -3.0, ("teacher", 64): 5.0}
    pictures = [draw_plot(made_up(results, values), tmp_path / "p.png").read_bytes() for values in (wide, below)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]


def test_many_cases_are_rows_of_a_taller_plot(results: Results, tmp_path: Path) -> None:
    def height(cases: int) -> int:
        values = {(f"case{index}", steps): 1.0 + index for index in range(cases) for steps in (2, 4)}
        header = draw_plot(made_up(results, values), tmp_path / "p.png").read_bytes()[20:24]
        return int.from_bytes(header, "big")

    assert height(2) == height(7) < height(20) < height(40)


def test_quality_by_diversity_is_a_second_picture(write_suite: Callable[..., str], tmp_path: Path) -> None:
    cases = [{"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [1, 4]}]
    source = write_suite(
        cases=cases, claims=None, diversity="sample_entropy", metrics=["ngram_distance", "sample_entropy"]
    )
    folder = run_suite(source, str(tmp_path / "out"))
    assert (folder / "quality_vs_diversity.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == 2
    assert "quality by diversity" in (folder / "report.html").read_text()

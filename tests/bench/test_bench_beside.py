"""Generative perplexity is nowhere without the entropy beside it: every table, sentence and picture that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tiny_suite import TEACHER, write_files

from fewstep.bench.report.compare import compare_results
from fewstep.bench.report.leaderboard import merge
from fewstep.bench.report.tables import Grid, conclusion, console_table, markdown, ordered, value_grid
from fewstep.bench.results.results import Results
from fewstep.bench.results.summary import estimate_text, value_text
from fewstep.bench.running.runner import run_suite
from fewstep.bench.suites.loading import load_suite
from fewstep.cli.main import main
from fewstep.core.errors import FewstepError
from fewstep.metrics.base import METRICS
from fewstep.training.launch import launch

AR = {
    **TEACHER,
    "name": "ar",
    "backbone": {**TEACHER["backbone"], "type": "block_transformer", "block_size": 1},
    "sampler": "block_ancestral",
}
PERPLEXITY = {"type": "generative_perplexity", "reference": "ar"}
CASES = [
    {"name": "ar", "recipe": "./ar.yaml", "steps": [1]},
    {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2, 4]},
]
CLAIMS = [{"case": "teacher", "steps": 2, "against": "teacher", "at": 4, "expect": "better"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite whose headline is generative perplexity, run."""
    place = tmp_path_factory.mktemp("beside")
    (place / "ar.yaml").write_text(yaml.safe_dump(AR))
    changes = {"metrics": [PERPLEXITY], "headline": "gen_ppl", "cases": CASES, "claims": CLAIMS, "quick": None}
    return run_suite(write_files(place, **changes), str(place / "out"))


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return Results.load(folder / "results.json")


def entropy(results: Results, case: str, steps: int | None) -> str:
    summary = results.find(case, steps)
    assert summary
    return estimate_text(summary.values["gen_entropy"])


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code


def check_columns(grid: Grid) -> None:
    place = next(i for i, name in enumerate(grid.header) if name.startswith("gen_ppl"))
    assert grid.header[place].split()[0] == "gen_ppl"
    assert grid.header[place + 1].split()[0] == "gen_entropy"
    assert all(row[place + 1] for row in grid.rows if row[place])


def test_the_metric_returns_both_and_says_so() -> None:
    metric = METRICS.get("generative_perplexity").cls
    assert metric.beside == {"gen_ppl": "gen_entropy", "gen_ppl_data": "gen_entropy_data"}
    assert set(metric.beside.values()) <= set(metric.directions)
    perplexities = [name for m in METRICS.entries() for name in m.cls.directions if "ppl" in name]
    assert set(perplexities) == set(metric.beside), "another metric gives perplexities; it must say what is beside them"


def test_a_row_has_both(results: Results) -> None:
    assert results.beside["gen_ppl"] == "gen_entropy"
    assert all({"gen_ppl", "gen_entropy"} <= row.values.keys() for row in results.rows)


def test_markdown_and_latex(folder: Path, results: Results) -> None:
    check_columns(value_grid(results))
    assert "| model | NFE | passes | gen_ppl ↓ | gen_entropy |\n" in markdown(results)
    assert r"gen\_ppl $\downarrow$ & gen\_entropy \\" in (folder / "results.tex").read_text()


def test_report(folder: Path, results: Results) -> None:
    page = re.sub(r"base64,[A-Za-z0-9+/=]*", "", re.sub(r">\s+<", "><", (folder / "report.html").read_text()))
    assert '<th class="number">gen_ppl ↓</th><th class="number">gen_entropy</th>' in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == 4
    assert all(re.search(r"gen_ppl [\d.]+, gen_entropy [\d.]+, seed 0", caption) for caption in captions)
    assert "<h2>Quality by diversity</h2>" in page, "drawn without being asked for"
    assert page.count("gen_ppl") <= page.count("gen_entropy")


def test_pictures(folder: Path, results: Results) -> None:
    assert results.diversity == "gen_entropy"
    assert (folder / "quality_vs_diversity.png").stat().st_size > 0


def test_sentences(results: Results) -> None:
    real = entropy(results, "data", None)
    assert f"with gen_entropy {real};" in conclusion(results)
    assert results.judges["gen_ppl"] == "ar"
    assert "; ar is left out, since gen_ppl is its own likelihood or gradient." in conclusion(results)
    text = conclusion(results)
    assert text.count("gen_ppl") == 2
    assert text.count("with gen_entropy") in (2, 3)  # the best, that of the fewest evaluations if another, the data
    claim = results.claims[0].text
    for steps in (2, 4):
        assert f"with gen_entropy {entropy(results, 'teacher', steps)}" in claim


def test_console(results: Results, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(console_table(results))
    text = captured.get()
    assert "gen_ppl ↓ / gen_entropy by NFE" in text
    values = results.find("teacher", 2).values
    assert f"{estimate_text(values['gen_ppl'])} / {estimate_text(values['gen_entropy'])}" in text
    run_suite(str(folder.parent / "suite.yaml"), str(folder))
    lines = [line for line in capsys.readouterr().out.splitlines() if ": gen_ppl" in line]
    assert len(lines) >= 4
    assert all("gen_entropy" in line for line in lines)


def test_leaderboard(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_columns(merge([folder]).grid())
    for form in ("markdown", "latex", "json"):
        run("leaderboard", str(folder), "--format", form)
        assert "entropy" in capsys.readouterr().out
    assert all({"gen_ppl", "gen_entropy"} <= entry["values"].keys() for entry in merge([folder]).plain())


def test_comparison(results: Results) -> None:
    text = compare_results(results, results, {}).markdown("BASE")
    rows = [line.split(" | ")[2] for line in text.splitlines() if line.startswith("| teacher")]
    assert rows == ["gen_ppl ↓", "gen_entropy"] * 2
    assert "missing" not in text


def test_evaluate(folder: Path, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "scored.yaml"
    reference = str(folder / str(results.case("ar").run))
    metrics = [{"type": "generative_perplexity", "reference": reference}]
    recipe.write_text(yaml.safe_dump({**TEACHER, "evaluate": {"metrics": metrics, "steps": [2], "samples": 20}}))
    launch(str(recipe), run_dir=str(tmp_path / "run"))
    capsys.readouterr()
    for more in ([], ["--json"]):
        run("evaluate", str(tmp_path / "run"), *more)
        out = capsys.readouterr().out
        assert out.index("gen_ppl") < out.index("gen_entropy") < out.index("gen_ppl_data")


def test_a_headline_that_stands_alone_stays_alone(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    assert results.beside == {}
    assert results.diversity is None
    assert "with gen_" not in conclusion(results)
    summary = results.find("teacher", 2)
    assert value_text(summary.values, "ngram_tv", {}) == estimate_text(summary.values["ngram_tv"])


def test_order_of_columns() -> None:
    names = ["a", "b", "c", "d"]
    assert ordered(names, "c", {}) == ["c", "a", "b", "d"]
    assert ordered(names, "b", {"b": "d", "a": "c"}) == ["b", "d", "a", "c"]
    assert ordered(names, "b", {"b": "missing"}) == ["b", "a", "c", "d"]


def test_a_suite_may_name_another_value_of_diversity(folder: Path) -> None:
    source = str(folder.parent / "suite.yaml")
    suite = load_suite(source).suite
    assert suite.beside == {"gen_ppl": "gen_entropy", "gen_ppl_data": "gen_entropy_data"}
    assert suite.diversity is None
    wrong = folder.parent / "wrong.yaml"
    wrong.write_text(Path(source).read_text() + "diversity: gen_entrop\n")
    with pytest.raises(FewstepError, match="no value of these metrics named 'gen_entrop'"):
        load_suite(str(wrong))

"""Suites that measure speed and memory, and cases that need what a machine lacks."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.bench.results.results import Results
from fewstep.bench.running import speed
from fewstep.bench.running.plan import make_plan
from fewstep.bench.running.runner import run_suite
from fewstep.bench.suites import needs
from fewstep.bench.suites.loading import load_suite
from fewstep.bench.suites.suite import REFERENCE, SPEED
from fewstep.core.errors import RecipeError
from fewstep.runtime.memory import peak_megabytes, reset_peak

Write = Callable[..., str]
CPU = torch.device("cpu")
CASES: list[dict[str, Any]] = [
    {"name": "plain", "recipe": "./teacher.yaml", "steps": [2]},
    {"name": "far", "recipe": "./teacher.yaml", "steps": [2], "needs": ["cuda"]},
    {"name": "learner", "recipe": "./student.yaml", "teacher": "far", "steps": [2]},
    {"name": "again", "model": "far", "steps": [2], "sampler": {"type": "ancestral", "top_p": 0.9}},
]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def load(folder: Path) -> Results:
    return Results.load(folder / "results.json")


# --------------------------------------------------------------------- speed


def test_the_median_of_the_draws_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws of 1, 10 and 2 seconds: 12 tokens in 2."""
    clock: Iterator[float] = iter([0.0, 1.0, 1.0, 11.0, 11.0, 13.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    drawn: list[int] = []

    def draw() -> torch.Tensor:
        drawn.append(1)
        return torch.zeros(3, 4)

    assert speed.time_drawing(draw, CPU, 3)["tokens_per_second"] == 6.0
    assert len(drawn) == 3


def test_the_speed_of_a_training_by_its_log() -> None:
    """The stretch to the first line of each session is left out, and so is one that a session's end cut off."""
    lines = [{"step": s, "seconds": t} for s, t in ((2, 9.0), (4, 10.0), (6, 12.0), (8, 7.0), (10, 8.5))]
    assert speed.train_tokens_per_second(lines, 3) == 4.0  # 6, 3 and 4 tokens a second
    assert speed.train_tokens_per_second(lines[:1], 3) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system cannot forget a peak")
def test_a_peak_is_seen_and_forgotten() -> None:
    reset_peak(CPU)
    before = peak_megabytes(CPU)
    with mmap.mmap(-1, 64 * 2**20) as memory:  # not malloc, which may keep what is freed
        for place in range(0, len(memory), mmap.PAGESIZE):
            memory[place] = 1
    high = peak_megabytes(CPU)
    assert 60 < high - before < 90
    reset_peak(CPU)
    assert peak_megabytes(CPU) < high - 50


@pytest.mark.medium
def test_speed_stands_beside_quality(write_suite: Write, tmp_path: Path) -> None:
    """Of models and not of real samples; how fast a training was and what it took is told with the models."""
    out = tmp_path / "out"
    claims = [{"case": "student", "steps": 1, "against": "teacher", "at": 4, "expect": "better"}]
    changes: dict[str, Any] = {"speed": {"repeats": 2}, "headline": "tokens_per_second", "claims": claims}
    results = load(run_suite(write_suite(**changes), str(out)))
    for row in results.rows:
        assert (row.values.keys() & SPEED) == (set() if row.case == REFERENCE else set(SPEED))
    assert results.find("teacher", 2).values["tokens_per_second"].n == 3  # type: ignore[union-attr]
    for name in ("teacher", "student"):
        case = results.case(name)
        assert case
        assert case.train_tokens_per_second
        assert case.logged["peak_memory_mb"] > 50
        assert (
            f"{case.train_tokens_per_second:,.0f} | {case.logged['peak_memory_mb']:,.0f} |"
            in (out / "results.md").read_text()
        )
    again = load(run_suite(write_suite(**changes), str(tmp_path / "again")))
    assert again.rows[-1].values != results.rows[-1].values
    assert again.without_times() == results.without_times(), "but for times, another run has the same results"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": {"repeats": 0}}, r"speed.repeats: .*greater than 0"),
        ({"headline": "tokens_per_second"}, "no value of these metrics named 'tokens_per_second'"),
        ({"cases": [{**CASES[1], "needs": ["gpu"]}], "claims": None}, r"cases\[0\].needs\[0\]: .*'cuda' or 'xformers'"),
    ],
)
def test_what_a_suite_says_wrongly_of_it(write_suite: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_suite(write_suite(**changes))


# ------------------------------------------------------------------- skipping


@pytest.mark.medium
@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_case_that_cannot_run_here_is_skipped_and_says_why(
    write_suite: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    """With all that learn from it or sample it; the others are measured, and the suite is complete."""
    reason = "it needs a GPU, and torch finds none here"
    out = tmp_path / "out"
    claims = [{"case": "learner", "steps": 2, "against": "plain", "expect": "better"}]
    source = write_suite(cases=CASES, claims=claims, seeds=[0], train_seeds=[0, 1])
    results = load(run_suite(source, str(out), jobs=jobs))
    assert [(case.case, case.reason) for case in results.skipped] == [
        ("far", reason),
        ("learner", reason),
        ("again", reason),
    ]
    assert {row.case for row in results.rows} == {REFERENCE, "plain"}
    assert (results.complete, results.failures, results.claims[0].verdict) == (True, (), None)
    said = capsys.readouterr().out
    for name in ("far", "learner", "again"):
        assert f"{name} is skipped: {reason}" in said
        assert f"Case '{name}' was skipped: {reason}." in (out / "results.md").read_text()
        assert f"Case '{name}' was skipped: {reason}." in unescape((out / "report.html").read_text())


@pytest.mark.medium
def test_what_is_skipped_here_is_no_regression(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that have it, from a machine that could (played by a training on the CPU)."""
    monkeypatch.setattr("fewstep.bench.running.plan.unmet_need", lambda needs: None)
    source = write_suite(cases=CASES, claims=None)
    base = run_suite(source, str(tmp_path / "there"))
    assert {row.case for row in load(base).rows} == {REFERENCE, "plain", "far", "learner", "again"}
    monkeypatch.setattr("fewstep.bench.running.plan.unmet_need", lambda needs: "it lacks it" if needs else None)
    here = run_suite(source, str(tmp_path / "here"), base=str(base))
    comparison = (here / "comparison.md").read_text()
    assert "| plain |" in comparison
    assert "far" not in comparison


@pytest.mark.usefixtures("no_gpu")
def test_a_metric_cannot_ask_a_case_that_is_skipped(write_suite: Write, tmp_path: Path) -> None:
    metrics = [{"type": "gradient_moment", "reference": "far"}, "exact_nll"]
    source = write_suite(cases=CASES, claims=None, metrics=metrics, headline="gradient_moment")
    with pytest.raises(
        RecipeError, match="case 'far' is skipped here, so that nothing can be measured: it needs a GPU"
    ):
        make_plan(load_suite(source), tmp_path / "out")


def test_xformers_is_looked_for_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("fewstep.backbones.attention._import_xformers", lambda: None)
    assert needs.unmet_need(["cuda"]) is None
    assert needs.unmet_need([]) is None
    assert needs.unmet_need(["xformers"]) == "it needs xformers, which is not installed or cannot be imported"
